"""A pooling model in llama.cpp: tokens in, one normalised vector a sequence out. No jobs, no JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from batch.errors import BatchError, ModelProblem
from batch.workers.embedding.tokenizer import TextTokenizer, Tokens
from batch.workers.llama.context import ABORTED, Context
from batch.workers.llama.library import last_error, lib
from batch.workers.llama.model import Model

Vectors = npt.NDArray[np.float32]
"""(rows, width)"""

MAX_SEQUENCES = 64
MAX_TEXT_TOKENS = 8192
"""Of one text, whatever the model was trained for: an encoder takes a whole text in one physical batch."""
MEASURED_BATCH_TOKENS = (96, 128, 192, 256, 512)
"""Sizes of a batch to choose from. Below 64 tokens llama.cpp's attention on a CPU takes a slower path, and a batch is
seldom quite full."""
MAX_BATCH_S = 0.1
"""What a batch may take on the threads that measure: somebody more urgent may come meanwhile."""
MEASURE_S = 0.4
POOLINGS = {1: "mean", 2: "cls", 3: "last"}


class Interrupted(Exception):
    """`stop` ended the decode: nothing of it is kept."""


class PooledModel:
    """One GGUF that pools. `embed` and `close` belong to one thread; `stop` and the tokeniser to any."""

    def __init__(self, path: Path, *, gpu_layers: int = -1, report: Callable[[float], None] | None = None) -> None:
        """Load the model; raises ModelProblem naming the file."""
        self.weights = Model(path, gpu_layers=gpu_layers, report=report)
        try:
            self._open()
        except ModelProblem:
            self.weights.close()
            raise
        self.tokenizer = TextTokenizer(self.weights)

    def _open(self) -> None:
        self.max_tokens = min(self.weights.n_ctx_train, MAX_TEXT_TOKENS)
        """Of one text, special tokens included."""
        self.width = int(lib.llama_model_n_embd_out(self.weights.handle))
        self.max_batch_tokens = room = max(self.max_tokens, 512)
        self.batch_tokens = min(room, 128)
        """How many tokens a batch of short texts should have; see `measure`."""
        self._context = Context(
            self.weights,
            n_ctx=room,
            n_batch=room,
            n_ubatch=room,
            sequences=MAX_SEQUENCES,
            embeddings=True,
            # Without it attention is computed over the whole batch, masked or not, in one slow piece.
            flash_attn_type=lib.LLAMA_FLASH_ATTN_TYPE_ENABLED,
        )
        pooling = int(lib.llama_pooling_type(self._context.handle))
        if pooling not in POOLINGS:
            self._context.close()
            raise ModelProblem(
                f"The model file {self.weights.path} does not say how vectors are pooled: it is no embedding model."
            )
        self.pooling = POOLINGS[pooling]

    def embed(self, texts: Sequence[Tokens], threads: int) -> Vectors:
        """One L2-normalised row a text, in one decode. Raises Interrupted when `stop` came in between.

        The texts must fit: at most MAX_SEQUENCES, none of them empty, at most `max_batch_tokens` in all.
        """
        total = sum(map(len, texts))
        if not 0 < len(texts) <= MAX_SEQUENCES or total > self.max_batch_tokens or not all(map(len, texts)):
            raise ValueError(f"a batch of {len(texts)} texts with {total} tokens does not fit")
        lengths = list(map(len, texts))
        positions = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
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
        rows = np.empty((len(texts), self.width), np.float32)
        for i in range(len(texts)):
            rows[i] = np.ctypeslib.as_array(lib.llama_get_embeddings_seq(self._context.handle, i), (self.width,))
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        if not np.isfinite(norms).all():
            raise BatchError("The model gave a vector that is not finite: its file may be damaged.")
        rows /= np.maximum(norms, np.float32(1e-12))
        return rows

    def measure(self, threads: int) -> dict[int, int]:
        """Set `batch_tokens` to the largest size that still makes nearly the most tokens a second, as more threads gain more
        from larger batches than those that measure; but to none that takes longer than MAX_BATCH_S.

        Returns the rates seen, tokens a second by tokens a batch. A size that would not fit into MEASURE_S is not tried.
        """
        text = np.arange(16, dtype=np.int32) * 97 % self.weights.n_vocab
        self.embed([text], threads)
        rates: dict[int, float] = {}
        deadline = time.perf_counter() + MEASURE_S
        # Three rounds over all sizes, the best of each: other programs' bursts then spoil none of them alone.
        for size in MEASURED_BATCH_TOKENS * 3:
            if rates and size / rates.get(size, min(rates.values())) > deadline - time.perf_counter():
                continue
            started_at = time.perf_counter()
            self.embed([text] * (size // len(text)), threads)
            rates[size] = max(rates.get(size, 0.0), size / (time.perf_counter() - started_at))
        best = max(rates.values())
        good = [size for size, rate in rates.items() if rate >= 0.95 * best]
        self.batch_tokens = max([size for size in good if size / rates[size] <= MAX_BATCH_S], default=min(good))
        return {size: round(rate) for size, rate in rates.items()}

    def stop(self) -> None:
        """From any thread: end the decode in flight, or the next, with Interrupted."""
        self._context.abort()

    def close(self) -> None:
        """Free the model and its context."""
        self._context.close()
        self.weights.close()
