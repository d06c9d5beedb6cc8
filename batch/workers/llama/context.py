"""A llama.cpp context: the KV memory of a few sequences, and the decoding of tokens into it."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from batch.errors import ModelProblem
from batch.memory.sizes import KvType
from batch.workers.llama.library import last_error, lib
from batch.workers.llama.model import Model

DECODED, NO_ROOM, ABORTED = 0, 1, 2
"""What `decode_tokens` and `decode_token` return; anything else is a fault of the library."""

STATE_PARTIAL = 1
"""Flag of `save_state`: only what cannot be rolled back (sliding windows, recurrent state)."""

State = np.ndarray[Any, np.dtype[np.uint8]]
Numbers = Sequence[int] | np.ndarray[Any, np.dtype[np.int32]]
Rows = np.ndarray[Any, np.dtype[np.float32]]
Logits = np.ndarray[Any, np.dtype[np.float32]]

_MAX_LOGITS_VIEWS = 1024

KV_TYPES: Mapping[KvType, int] = {"f16": lib.GGML_TYPE_F16, "q8_0": lib.GGML_TYPE_Q8_0}
"""How keys and values are kept, by ggml's number."""


def _abort_condition() -> Any:
    """A C function that returns whether the byte at its argument is not zero: strlen.

    An abort callback in Python, called once a graph node, would take the GIL thousands of times a token.
    """
    library = ctypes.CDLL("msvcrt" if sys.platform == "win32" else None)
    return lib.ggml_abort_callback(ctypes.cast(library.strlen, ctypes.c_void_p).value)


class Context:
    """KV memory for `sequences` conversations that share `n_ctx` cells, or have as many each. Used from one thread, `abort`
    from any."""

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int = 0,
        n_batch: int = 2048,
        n_ubatch: int = 512,
        sequences: int = 1,
        threads: int = 1,
        kv_type: KvType = "f16",
        own_kv: bool = False,
        **params: Any,
    ) -> None:
        """Allocate it; `n_ctx` 0 is the model's own length, `params` any further field of llama_context_params.

        `own_kv`: each sequence has n_ctx cells of its own, not 0. Then those are computed at once that have consecutive numbers
        and as many tokens each, and a decode that holds others takes several times as long.

        `kv_type` q8_0 is for heads of a multiple of 32 numbers, and switches flash attention on.

        Raises ModelProblem when there is not enough memory.
        """
        values = lib.llama_context_default_params()
        values.n_ctx = n_ctx * sequences if own_kv else n_ctx
        values.n_batch, values.n_ubatch = n_batch, min(n_ubatch, n_batch)
        values.n_seq_max = sequences
        values.n_threads = values.n_threads_batch = threads
        values.kv_unified = not own_kv
        values.swa_full = False
        values.no_perf = True
        values.type_k = values.type_v = KV_TYPES[kv_type]
        for name, value in params.items():
            setattr(values, name, value)
        self.handle = lib.llama_init_from_model(model.handle, values)
        if not self.handle:
            raise ModelProblem(
                f"There is not enough memory for a context of {n_ctx or model.n_ctx_train} tokens with {model.path} "
                f"({last_error()}): set a smaller vlm.context."
            )
        self.memory = lib.llama_get_memory(self.handle)
        self.n_ctx = int(lib.llama_n_ctx_seq(self.handle))
        self.n_batch = int(lib.llama_n_batch(self.handle))
        self.n_ubatch = int(lib.llama_n_ubatch(self.handle))
        self._n_vocab = model.n_vocab
        self.sequences = sequences
        self.has_own_kv = own_kv
        self._copied: tuple[int, int] | None = None
        """A sequence that the next decode copies another's KV to, and where what it has of it ends."""
        self.threads = threads
        self._abort_flag = ctypes.create_string_buffer(2)
        self._abort_condition = _abort_condition()
        self._listen()
        self._allocate_batches()

    def _listen(self) -> None:
        lib.llama_set_abort_callback(self.handle, self._abort_condition, ctypes.cast(self._abort_flag, ctypes.c_void_p))

    def _allocate_batches(self) -> None:
        n, pointer = self.n_batch, ctypes.POINTER(ctypes.c_int32)
        self._token, self._pos, self._seq = (np.zeros(n, np.int32) for _ in range(3))
        self._count, self._output = np.ones(n, np.int32), np.zeros(n, np.int8)
        # One set of arrays for all batches: each token's pointer to its sequence id stays on its own cell of _seq.
        self._seq_cells = (self._seq.ctypes.data + 4 * np.arange(n)).astype(np.uintp)
        self._batch = lib.llama_batch(
            0,
            self._token.ctypes.data_as(pointer),
            None,
            self._pos.ctypes.data_as(pointer),
            self._count.ctypes.data_as(pointer),
            self._seq_cells.ctypes.data_as(ctypes.POINTER(pointer)),
            self._output.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )
        # A generated token goes through a batch of its own, so that decoding it is three stores and one call.
        self._one_token, self._one_pos, self._one_seq = (ctypes.c_int32() for _ in range(3))
        self._one_count, self._one_output = ctypes.c_int32(1), ctypes.c_int8(1)
        self._one_seq_cell = ctypes.pointer(self._one_seq)
        self._one = lib.llama_batch(
            1,
            ctypes.pointer(self._one_token),
            None,
            ctypes.pointer(self._one_pos),
            ctypes.pointer(self._one_count),
            ctypes.pointer(self._one_seq_cell),
            ctypes.pointer(self._one_output),
        )
        self._logits: dict[int, Logits] = {}

    def _decode(self, batch: Any) -> int:
        self._copied = None
        return int(lib.llama_decode(self.handle, batch))

    def close(self) -> None:
        """Free the memory. Harmless when called again."""
        if self.handle:
            lib.llama_free(self.handle)
            self.handle = None

    def decode_tokens(self, tokens: Sequence[int], pos: int, seq: int, *, output: bool) -> int:
        """Append a slice of at most n_batch tokens at position `pos`; `output` computes logits behind its last."""
        n = len(tokens)
        self._token[:n] = tokens
        self._pos[:n] = np.arange(pos, pos + n, dtype=np.int32)
        self._seq[:n] = seq
        self._output[:n] = 0
        self._output[n - 1] = output
        self._batch.n_tokens = n
        return self._decode(self._batch)

    def decode_token(self, token: int, pos: int, seq: int) -> int:
        """Append one token and compute the logits behind it."""
        self._one_token.value = token
        self._one_pos.value = pos
        self._one_seq.value = seq
        return self._decode(self._one)

    def decode_rows(self, tokens: Numbers, positions: Numbers, sequences: Numbers) -> int:
        """Append each token to its sequence, and compute what stands behind each of them: logits, or embeddings."""
        n = len(tokens)
        self._token[:n] = tokens
        self._pos[:n] = positions
        self._seq[:n] = sequences
        self._output[:n] = 1
        self._batch.n_tokens = n
        return self._decode(self._batch)

    def decode_parts(self, parts: Sequence[tuple[Sequence[int], int, int, bool]]) -> int:
        """Append to several sequences at once: (tokens, position, sequence, whether logits behind its last are wanted)."""
        at = 0
        for tokens, pos, seq, output in parts:
            end = at + len(tokens)
            self._token[at:end] = tokens
            self._pos[at:end] = pos if end - at == 1 else np.arange(pos, pos + end - at, dtype=np.int32)
            self._seq[at:end] = seq
            self._output[at:end] = 0
            self._output[end - 1] = output
            at = end
        self._batch.n_tokens = at
        return self._decode(self._batch)

    def decode_embeddings(self, parts: Sequence[tuple[Rows, int, int]]) -> int:
        """Append rows of the model's input to sequences, as tokens would be, no logits behind them; each part: (rows, of
        shape (n, width), position, sequence)."""
        n = 0
        for rows, pos, seq in parts:
            self._pos[n : n + len(rows)] = np.arange(pos, pos + len(rows), dtype=np.int32)
            self._seq[n : n + len(rows)] = seq
            n += len(rows)
        self._output[:n] = 0
        # One part is not copied: a picture's rows may be many megabytes.
        all_rows = parts[0][0] if len(parts) == 1 else np.concatenate([rows for rows, *_ in parts])
        values, tokens = np.ascontiguousarray(all_rows), self._batch
        pointer = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        batch = lib.llama_batch(n, None, pointer, tokens.pos, tokens.n_seq_id, tokens.seq_id, tokens.logits)
        return self._decode(batch)

    def copy_sequence(self, source: int, target: int, end: int) -> None:
        """Let `target`, in which nothing stands, have the positions of `source` before `end`: the same cells, or, where each
        has its own, copies of all of them, which the next decode makes."""
        if not self.has_own_kv:
            lib.llama_memory_seq_cp(self.memory, source, target, 0, end)
            return
        lib.llama_memory_seq_cp(self.memory, source, target, 0, -1)
        self.forget(target, end)
        self._copied = target, end

    def _make_copies(self) -> None:
        """What reads or writes KV itself must find the copies there: llama.cpp makes them in a decode only, which overwrites
        the last one's logits."""
        if self._copied is not None:
            # Of a copy whose window has left its end, llama.cpp would say that nothing stands there: it asks the windows alone.
            seq, end = self._copied
            self.decode_token(0, end, seq)
            self.forget(seq, end)

    def abort(self) -> None:
        """From any thread: end the decode in flight (or the next one) with ABORTED."""
        self._abort_flag[0] = b"x"

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """While this lasts, `abort` waits: for a decode that was broken off so often that it must be let through."""
        lib.llama_set_abort_callback(self.handle, lib.ggml_abort_callback(0), None)
        try:
            yield
        finally:
            self._listen()

    def clear_abort(self) -> None:
        """Forget an earlier `abort`."""
        self._abort_flag[0] = b"\0"

    def set_threads(self, n: int) -> None:
        """How many threads the next decode uses."""
        if n != self.threads:
            lib.llama_set_n_threads(self.handle, n, n)
            self.threads = n

    def logits(self, row: int = -1) -> Logits:
        """The logits behind a token of the last decode, (n_vocab,): a view that the next decode overwrites.

        `row` counts that decode's tokens; -1 is the last one that logits were computed for.
        """
        pointer = lib.llama_get_logits_ith(self.handle, row)
        address = ctypes.addressof(pointer.contents)
        view = self._logits.get(address)
        if view is None:  # they hardly ever move, and making a view takes longer than finding it
            if len(self._logits) > _MAX_LOGITS_VIEWS:
                self._logits.clear()
            view = self._logits[address] = np.ctypeslib.as_array(pointer, shape=(self._n_vocab,))
        return view

    def forget(self, seq: int, start: int = 0) -> bool:
        """Remove the sequence's positions from `start` on; returns False when the memory cannot remove a part."""
        if self._copied is not None and seq == self._copied[0]:
            self._copied = seq, min(start, self._copied[1])
        return bool(lib.llama_memory_seq_rm(self.memory, seq, start, -1))

    def first_position(self, seq: int) -> int:
        """The oldest position of the sequence that all layers still hold (sliding windows drop old ones); -1: empty."""
        return int(lib.llama_memory_seq_pos_min(self.memory, seq))

    def last_position(self, seq: int) -> int:
        """The newest position of the sequence; -1: empty."""
        return int(lib.llama_memory_seq_pos_max(self.memory, seq))

    def state_size(self, seq: int, flags: int = 0) -> int:
        """How many bytes `save_state` would return."""
        return int(lib.llama_state_seq_get_size_ext(self.handle, seq, flags))

    def save_state(self, seq: int, flags: int = 0) -> State:
        """The sequence's KV as bytes in host memory, which `restore_state` takes."""
        self._make_copies()
        size = self.state_size(seq, flags)
        data: State = np.empty(size, np.uint8)
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        size_bytes = int(lib.llama_state_seq_get_data_ext(self.handle, pointer, size, seq, flags))
        return data[:size_bytes]

    def restore_state(self, seq: int, data: State, flags: int = 0) -> bool:
        """Replace a sequence's KV by a saved one; returns False when there are not enough free cells."""
        self._make_copies()
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        return bool(lib.llama_state_seq_set_data_ext(self.handle, pointer, len(data), seq, flags))
