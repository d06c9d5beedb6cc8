"""A pooling model in llama.cpp: tokens in, one normalised vector a sequence out. No jobs, no JSON."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from batch.errors import BatchError, ModelProblem
from batch.memory.machine import machine_memory
from batch.memory.text_length import text_tokens
from batch.workers.embedding.pooling_context import MAX_SEQUENCES, PoolingContext, Vectors
from batch.workers.embedding.tokenizer import TextTokenizer, Tokens
from batch.workers.embedding.two_halves import MAX_SMALLER_TOKENS, Halves, two_halves
from batch.workers.llama.barrier_watch import BarrierWatch
from batch.workers.llama.library import lib
from batch.workers.llama.model import Model

MAX_TEXT_TOKENS = 8192
"""Of one text, whatever the model was trained for: an encoder takes a whole text in one physical batch."""
MEASURED_BATCH_TOKENS = (96, 128, 192, 256, 512)
"""Sizes of a batch to choose from. Below 64 tokens llama.cpp's attention on a CPU takes a slower path, and a batch is
seldom quite full."""
MAX_BATCH_S = 0.1
"""What a batch may take on the threads that measure: somebody more urgent may come meanwhile."""
MEASURE_S = 0.4
MIN_TIMED_TOKENS = 32
"""A smaller decode takes about as long as one of so many."""
MAX_TIMED_TEXT_TOKENS = 512
"""A token of a longer text takes longer by itself, as attention grows with the text, whoever else computes: MiniLM takes 1.3
times as long for one of a text of 512 tokens as for one of short texts."""
POOLINGS = {1: "mean", 2: "cls", 3: "last"}
THREADS_IN_HALVES = 2
"""With so many a batch is computed in two halves, each as large as what one of them computes well; more were not measured."""
_log = logging.getLogger(__name__)


class PooledModel:
    """One GGUF that pools. `embed` and `close` belong to one thread; `stop` and the tokeniser to any."""

    def __init__(self, path: Path, *, gpu_layers: int = -1, report: Callable[[float], None] | None = None) -> None:
        """Load the model; raises ModelProblem naming the file."""
        self.weights = Model(path, gpu_layers=gpu_layers, report=report)
        self._may_halve = gpu_layers == 0 or not lib.llama_supports_gpu_offload()
        """Whether the processor computes: a GPU takes a batch as a whole."""
        try:
            self._open()
        except ModelProblem:
            self.weights.close()
            raise
        self.tokenizer = TextTokenizer(self.weights)

    def _open(self) -> None:
        most = min(self.weights.n_ctx_train, MAX_TEXT_TOKENS)
        self.max_tokens = text_tokens(most, self.weights.n_vocab, machine_memory())
        """Of one text, special tokens included."""
        if self.max_tokens < most:
            _log.warning("texts have at most %d of %d tokens: there is no memory for more", self.max_tokens, most)
        self.width = int(lib.llama_model_n_embd_out(self.weights.handle))
        self.max_batch_tokens = room = max(self.max_tokens, 512)
        self.batch_tokens = min(room, 128)
        """How many tokens a batch of short texts should have; see `measure`."""
        self.measured_threads = 1
        """How many threads that was measured with."""
        self._token_s = math.inf
        """Seconds a token that those threads take in a batch of the best size; before `measure`, nothing is slow."""
        self._watch = BarrierWatch(self.measured_threads)
        self._context = PoolingContext(self.weights, room)
        if self._context.pooling not in POOLINGS:
            self._context.close()
            raise ModelProblem(
                f"The model file {self.weights.path} does not say how vectors are pooled: it is no embedding model."
            )
        self.pooling = POOLINGS[self._context.pooling]
        self._second: PoolingContext | None = None
        """Computes half of a batch, from the first one on that is worth it."""
        self._helper = ThreadPoolExecutor(1, thread_name_prefix="half")

    def target_tokens(self, threads: int) -> int:
        """How many tokens a batch of short texts should have when so many threads compute it: each may have a half, of which
        the size was measured where one thread measured."""
        batches = max(1, THREADS_IN_HALVES // self.measured_threads) if self.computes_halves(threads) else 1
        return min(self.max_batch_tokens, self.batch_tokens * batches)

    def computes_halves(self, threads: int) -> bool:
        """Whether so many threads compute a batch in halves, one each, where it makes good ones."""
        return self._may_halve and threads == THREADS_IN_HALVES

    def embed(self, texts: Sequence[Tokens], threads: int) -> Vectors:
        """One L2-normalised row a text, in one decode. Raises Interrupted when `stop` came in between.

        The texts must fit: at most MAX_SEQUENCES, none of them empty, at most `max_batch_tokens` in all.
        """
        total = sum(map(len, texts))
        if not 0 < len(texts) <= MAX_SEQUENCES or total > self.max_batch_tokens or not all(map(len, texts)):
            raise ValueError(f"a batch of {len(texts)} texts with {total} tokens does not fit")
        halves = two_halves(texts) if self.computes_halves(threads) else None
        second = self._second_context() if halves is not None else None
        if halves is None or second is None:
            rows = self._embed_together(texts, total, threads)
        else:
            rows = self._embed_halves(texts, halves, second)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        if not np.isfinite(norms).all():
            raise BatchError("The model gave a vector that is not finite: its file may be damaged.")
        rows /= np.maximum(norms, np.float32(1e-12))
        return rows

    def _embed_together(self, texts: Sequence[Tokens], total: int, threads: int) -> Vectors:
        """One row a text; the threads share the decode, fewer while others keep them from it."""
        started_at = time.monotonic()
        threads = self._watch.choose(threads, started_at)
        rows = self._context.embed(texts, threads)
        if max(map(len, texts)) > MAX_TIMED_TEXT_TOKENS:
            return rows
        now = time.monotonic()
        self._watch.note(threads, now - started_at, max(total, MIN_TIMED_TOKENS) * self._token_s, now)
        return rows

    def _second_context(self) -> PoolingContext | None:
        """What computes the smaller half, made when it is wanted first; None where there is no memory for it."""
        if self._second is None:
            try:
                self._second = PoolingContext(self.weights, MAX_SMALLER_TOKENS)
            except ModelProblem:
                self._may_halve = False
        return self._second

    def _embed_halves(self, texts: Sequence[Tokens], halves: Halves, second: PoolingContext) -> Vectors:
        """One row a text; the halves are computed beside each other, by one thread each."""
        larger, smaller = halves
        rows = np.empty((len(texts), self.width), np.float32)
        beside = self._helper.submit(second.embed, [texts[place] for place in smaller], 1)
        try:
            rows[larger] = self._context.embed([texts[place] for place in larger], 1)
        finally:
            # Both have ended before anything else is done with the model, also when one was interrupted.
            error = beside.exception()
        if error is not None:
            raise error
        rows[smaller] = beside.result()
        return rows

    def measure(self, threads: int) -> dict[int, int]:
        """Set `batch_tokens` to the largest size that still makes nearly the most tokens a second, as more threads gain more
        from larger batches than those that measure; but to none that takes longer than MAX_BATCH_S.

        Returns the rates seen, tokens a second by tokens a batch. A size that would not fit into MEASURE_S is not tried.
        """
        text = np.arange(16, dtype=np.int32) * 97 % self.weights.n_vocab
        self._context.embed([text], threads)
        self.measured_threads = threads
        rates: dict[int, float] = {}
        deadline = time.perf_counter() + MEASURE_S
        # Three rounds over all sizes, the best of each: other programs' bursts then spoil none of them alone.
        for size in MEASURED_BATCH_TOKENS * 3:
            if rates and size / rates.get(size, min(rates.values())) > deadline - time.perf_counter():
                continue
            started_at = time.perf_counter()
            self._context.embed([text] * (size // len(text)), threads)
            rates[size] = max(rates.get(size, 0.0), size / (time.perf_counter() - started_at))
        best = max(rates.values())
        self._token_s, self._watch = 1 / best, BarrierWatch(threads)
        good = [size for size, rate in rates.items() if rate >= 0.95 * best]
        self.batch_tokens = max([size for size in good if size / rates[size] <= MAX_BATCH_S], default=min(good))
        return {size: round(rate) for size, rate in rates.items()}

    def stop(self) -> None:
        """From any thread: end the decode in flight, or the next, with Interrupted."""
        self._context.stop()
        if (second := self._second) is not None:
            second.stop()

    def close(self) -> None:
        """Free the model and its contexts."""
        self._helper.shutdown()
        if self._second is not None:
            self._second.close()
        self._context.close()
        self.weights.close()
