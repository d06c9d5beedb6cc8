"""Of an encoder's last layer only what is pooled: where a text's vector is its first token's row, no other row is needed.

llama.cpp computes that layer's feed-forward net for all tokens of an encoder's batch. Its graph picks rows in front of the net,
as a decoder's does, but all of them. `PooledRows` has it pick the first tokens, before the graph is computed: with 12 layers
that saves 2 to 4 % of the time. The numbers are the same bit for bit, as each row is computed by itself.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from batch.workers.llama.library import ggml, lib
from batch.workers.llama.model import Model

RowNumbers = npt.NDArray[np.int32]

_OBJECT_BYTES = 32
"""sizeof(struct ggml_object), with which ggml_tensor_overhead() counts a tensor."""
_PICKED_ROWS, _POOLED_ROWS = b"out_ids", b"cls"
"""What llama.cpp calls the numbers of the rows that go into the net, and of those rows that are pooled."""
_GET_ROWS = 40
"""ggml's number of the operation that picks rows."""


class _Tensor(ctypes.Structure):
    """ggml's struct ggml_tensor."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    )


_OPERATION = _Tensor.op.offset


class PooledRows:
    """One a context; `callback` goes into its llama_context_params.cb_eval, and lives as long as the context."""

    def __init__(self) -> None:
        self.callback = lib.ggml_backend_sched_eval_callback(self._on_node)
        self._rows: RowNumbers = np.zeros(0, np.int32)
        self._is_behind_choice = False
        self.narrowed_nodes = 0
        """Of the last decode's graph: how many nodes had fewer rows than tokens."""
        self.is_on = True
        """Whether graphs are narrowed; otherwise they are left as they are."""

    @staticmethod
    def suit(weights: Model) -> bool:
        """Whether a model's vectors are first tokens' rows, and its graph is one whose nodes may be narrowed: a BERT's of which
        no GPU takes a part."""
        return (
            weights.metadata("general.architecture") == "bert"
            and weights.metadata("bert.pooling_type") == str(int(lib.LLAMA_POOLING_TYPE_CLS))
            and not lib.llama_supports_gpu_offload()
            and _has_known_layout()
        )

    def choose(self, rows: RowNumbers) -> None:
        """The next decode's rows of first tokens, one a text, in the order of the texts."""
        self._rows = np.ascontiguousarray(rows, np.int32)
        self._is_behind_choice = False
        self.narrowed_nodes = 0

    def _on_node(self, address: int, is_asked: bool, _data: int | None) -> bool:
        """Asked about each node in turn, before any is computed: whether to stop behind it, which is never so."""
        if not is_asked or not self.is_on:
            return not is_asked
        if ctypes.c_int.from_address(address + _OPERATION).value == _GET_ROWS:
            self._choose_rows(_Tensor.from_address(address))
        if self._is_behind_choice:
            _Tensor.from_address(address).ne[1] = len(self._rows)
            self.narrowed_nodes += 1
        return False

    def _choose_rows(self, picker: _Tensor) -> None:
        numbers = _Tensor.from_address(picker.src[1])
        count = len(self._rows)
        if numbers.name == _PICKED_ROWS:
            # Its memory has room for a number a token.
            ctypes.memmove(numbers.data, self._rows.ctypes.data, self._rows.nbytes)
            numbers.ne[0] = count
            self._is_behind_choice = True
        elif numbers.name == _POOLED_ROWS and self._is_behind_choice:
            picked = np.arange(count, dtype=np.int32)
            ctypes.memmove(numbers.data, picked.ctypes.data, picked.nbytes)
            self._is_behind_choice = False


@lru_cache(maxsize=1)
def _has_known_layout() -> bool:
    """Whether ggml's tensors and numbers are those above."""
    overhead, name = ggml["ggml_tensor_overhead"], ggml["ggml_op_name"]
    overhead.restype, name.restype = ctypes.c_size_t, ctypes.c_char_p
    return bool(overhead() == _OBJECT_BYTES + ctypes.sizeof(_Tensor) and name(_GET_ROWS) == b"GET_ROWS")
