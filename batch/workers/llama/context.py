"""A llama.cpp context: the KV memory of a few sequences, and the decoding of tokens into it."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from batch.errors import ModelProblem
from batch.workers.llama.model import Model, complaint, lib

DECODED, NO_ROOM, ABORTED = 0, 1, 2
"""What `decode` and `step` answer; anything below zero is a fault of the library."""

PARTIAL = 1
"""State flag: only the part that cannot be rolled back (the sliding window)."""

State = np.ndarray[Any, np.dtype[np.uint8]]


def _truth_of_memory() -> Any:
    """A C function that says whether the byte it is given is not zero: strlen. Python in an abort callback, asked once
    a graph node, would take the GIL thousands of times a token."""
    library = ctypes.CDLL("msvcrt" if sys.platform == "win32" else None)
    return lib.ggml_abort_callback(ctypes.cast(library.strlen, ctypes.c_void_p).value)


class Context:
    """KV memory for `sequences` conversations that share `n_ctx` cells. Used from one thread, `stop` from any."""

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int = 0,
        n_batch: int = 2048,
        n_ubatch: int = 512,
        sequences: int = 1,
        threads: int = 1,
        **more: Any,
    ) -> None:
        """`n_ctx` 0 is the model's own; `more` sets any further field of llama_context_params."""
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, n_batch, min(n_ubatch, n_batch)
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True
        params.swa_full = False
        params.no_perf = True
        for name, value in more.items():
            setattr(params, name, value)
        self.handle = lib.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise ModelProblem(
                f"There is not enough memory for a context of {n_ctx or model.n_ctx_train} tokens with {model.path} "
                f"({complaint()}): set a smaller vlm.context."
            )
        self.memory = lib.llama_get_memory(self.handle)
        self.n_ctx = int(lib.llama_n_ctx_seq(self.handle))
        self.n_batch = int(lib.llama_n_batch(self.handle))
        self.n_ubatch = int(lib.llama_n_ubatch(self.handle))
        self.sequences = sequences
        self.threads = threads
        self._flag = ctypes.create_string_buffer(2)
        self._truth = _truth_of_memory()
        lib.llama_set_abort_callback(self.handle, self._truth, ctypes.cast(self._flag, ctypes.c_void_p))
        self._make_batches()

    def _make_batches(self) -> None:
        n = self.n_batch
        self._token = np.zeros(n, np.int32)
        self._pos = np.zeros(n, np.int32)
        self._count = np.ones(n, np.int32)
        self._output = np.zeros(n, np.int8)
        self._seq_ids = [ctypes.c_int32(s) for s in range(self.sequences)]
        pointer = ctypes.POINTER(ctypes.c_int32)
        self._seq_rows = [(pointer * n)(*([ctypes.pointer(s)] * n)) for s in self._seq_ids]
        self._batch = lib.llama_batch(
            n,
            self._token.ctypes.data_as(pointer),
            None,
            self._pos.ctypes.data_as(pointer),
            self._count.ctypes.data_as(pointer),
            self._seq_rows[0],
            self._output.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )
        # A generated token goes through a batch of its own, so that a step is two stores and one call.
        self._one_token, self._one_pos = ctypes.c_int32(), ctypes.c_int32()
        self._one_count, self._one_output = ctypes.c_int32(1), ctypes.c_int8(1)
        self._ones = [
            lib.llama_batch(
                1,
                ctypes.pointer(self._one_token),
                None,
                ctypes.pointer(self._one_pos),
                ctypes.pointer(self._one_count),
                row,
                ctypes.pointer(self._one_output),
            )
            for row in self._seq_rows
        ]
        self._decode = lib.llama_decode
        self._logits_at = 0
        self._logits: np.ndarray[Any, np.dtype[np.float32]] = np.zeros(0, np.float32)

    def close(self) -> None:
        if self.handle:
            lib.llama_free(self.handle)
            self.handle = None

    def decode(self, tokens: Sequence[int], pos: int, seq: int, *, output: bool) -> int:
        """Append a slice of at most n_batch tokens at position `pos`; `output` computes logits behind its last."""
        n = len(tokens)
        self._token[:n] = tokens
        self._pos[:n] = np.arange(pos, pos + n, dtype=np.int32)
        self._output[:n] = 0
        self._output[n - 1] = output
        self._batch.n_tokens = n
        self._batch.seq_id = self._seq_rows[seq]
        return int(self._decode(self.handle, self._batch))

    def step(self, token: int, pos: int, seq: int) -> int:
        """Append one token and compute the logits behind it."""
        self._one_token.value = token
        self._one_pos.value = pos
        return int(self._decode(self.handle, self._ones[seq]))

    def stop(self) -> None:
        """From any thread: end the decode in flight (or the next) with ABORTED."""
        self._flag[0] = b"x"

    def proceed(self) -> None:
        """Forget an earlier `stop`."""
        self._flag[0] = b"\0"

    def set_threads(self, n: int) -> None:
        if n != self.threads:
            lib.llama_set_n_threads(self.handle, n, n)
            self.threads = n

    def logits(self, n_vocab: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The logits behind the last decode, (n_vocab,) float32: a view that the next decode overwrites."""
        pointer = lib.llama_get_logits_ith(self.handle, -1)
        address = ctypes.addressof(pointer.contents)
        if address != self._logits_at:  # nearly always where it was; making the view takes longer than looking
            self._logits_at, self._logits = address, np.ctypeslib.as_array(pointer, shape=(n_vocab,))
        return self._logits

    def remove(self, seq: int, start: int = 0) -> bool:
        """Forget the sequence's positions from `start` on; False when the memory cannot forget a part."""
        return bool(lib.llama_memory_seq_rm(self.memory, seq, start, -1))

    def first_position(self, seq: int) -> int:
        """The oldest position that is still there for all layers (sliding windows forget), -1 when empty."""
        return int(lib.llama_memory_seq_pos_min(self.memory, seq))

    def last_position(self, seq: int) -> int:
        return int(lib.llama_memory_seq_pos_max(self.memory, seq))

    def state_size(self, seq: int, flags: int = 0) -> int:
        """Bytes that `save` would give."""
        return int(lib.llama_state_seq_get_size_ext(self.handle, seq, flags))

    def save(self, seq: int, flags: int = 0) -> State:
        """The sequence's KV as bytes in host memory."""
        size = self.state_size(seq, flags)
        data: State = np.empty(size, np.uint8)
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        written = int(lib.llama_state_seq_get_data_ext(self.handle, pointer, size, seq, flags))
        return data[:written]

    def restore(self, seq: int, data: State, flags: int = 0) -> bool:
        """Put saved KV back under a sequence; False when there is no room."""
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        return bool(lib.llama_state_seq_set_data_ext(self.handle, pointer, len(data), seq, flags))
