"""A llama.cpp context that pools: one decode makes a vector of each text. Several may lie on one model."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from batch.errors import BatchError
from batch.workers.embedding.tokenizer import Tokens
from batch.workers.llama.context import ABORTED, Context
from batch.workers.llama.library import last_error, lib
from batch.workers.llama.model import Model

Vectors = npt.NDArray[np.float32]
"""(rows, width)"""

MAX_SEQUENCES = 64


def _flash_attention() -> int:
    """llama.cpp's number of whether attention is computed in tiles: without them it is computed over the whole batch, masked or
    not, in one slow piece. A GPU that has no kernel for a model's heads (CUDA has none for MiniLM's, of 32 numbers) would leave
    it to the processor, with copies there and back for each layer: then llama.cpp does without."""
    automatic = lib.llama_supports_gpu_offload()
    return int(lib.LLAMA_FLASH_ATTN_TYPE_AUTO if automatic else lib.LLAMA_FLASH_ATTN_TYPE_ENABLED)


class Interrupted(Exception):
    """`stop` ended the decode: nothing of it is kept."""


class PoolingContext:
    """Used from one thread at a time, `stop` from any."""

    def __init__(self, weights: Model, room: int) -> None:
        """`room`: the most tokens of one decode. Raises ModelProblem when there is not enough memory."""
        self.room = room
        self._width = int(lib.llama_model_n_embd_out(weights.handle))
        self._positions = np.arange(room, dtype=np.int32)
        self._context = Context(
            weights,
            n_ctx=room,
            n_batch=room,
            n_ubatch=room,
            sequences=MAX_SEQUENCES,
            embeddings=True,
            flash_attn_type=_flash_attention(),
        )
        self.pooling = int(lib.llama_pooling_type(self._context.handle))
        """llama.cpp's number of how vectors are pooled."""

    def embed(self, texts: Sequence[Tokens], threads: int) -> Vectors:
        """One row a text, as the model gives it. Raises Interrupted when `stop` came in between.

        The texts must fit: at most MAX_SEQUENCES, none of them empty, at most `room` tokens in all.
        """
        lengths = list(map(len, texts))
        positions = np.concatenate([self._positions[:length] for length in lengths])
        sequences = np.repeat(np.arange(len(texts), dtype=np.int32), lengths)
        self._context.set_threads(threads)
        if self._context.memory:  # causal embedders have one, encoders none
            lib.llama_memory_clear(self._context.memory, False)
        code = self._context.decode_rows(np.concatenate(texts), positions, sequences)
        if code == ABORTED:
            self._context.clear_abort()
            raise Interrupted
        if code != 0:
            raise BatchError(f"llama.cpp could not compute these vectors (code {code}): {last_error()}")
        rows = np.empty((len(texts), self._width), np.float32)
        address, row_bytes = rows.ctypes.data, rows.strides[0]
        for i in range(len(texts)):
            ctypes.memmove(address + i * row_bytes, lib.llama_get_embeddings_seq(self._context.handle, i), row_bytes)
        return rows

    def stop(self) -> None:
        """From any thread: end the decode in flight, or the next, with Interrupted."""
        self._context.abort()

    def close(self) -> None:
        """Free the context. Harmless when called again."""
        self._context.close()
