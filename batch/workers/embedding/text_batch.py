"""Jobs of texts under way, and the rows of one or several of them that are decoded together."""

from __future__ import annotations

import base64
import time
from collections import deque
from collections.abc import Sequence

import numpy as np

from batch.payloads.embedding import EmbeddingResult
from batch.workers.embedding.input_rows import InputRows
from batch.workers.embedding.pooling_context import Vectors
from batch.workers.embedding.tokenizer import Tokens
from batch.workers.engine import Work

MAX_INLINE_BYTES = 64 << 10
"""Larger vectors go into the spool instead of the result."""


class EmbeddingJob:
    """One job's rows, and its vectors as they are computed."""

    def __init__(self, work: Work, inputs: InputRows, width: int) -> None:
        """`width`: dimensions of a vector that are kept."""
        self.work = work
        self.rows = inputs.rows
        self.tokens = sum(map(len, inputs.rows))
        self._windows = inputs.windows
        self._width = width
        self._started_at = time.perf_counter()
        # The longest first: batches of like lengths, and the first one shows at once whether memory suffices.
        self.pending_rows = deque(sorted(range(len(self.rows)), key=lambda row: -len(self.rows[row])))
        self.pending_tokens = self.tokens
        self._vectors: Vectors = np.empty((len(self.rows), width), np.float32)
        self.computed = 0
        """Rows whose vectors are there."""

    def set_vector(self, row: int, vector: Vectors) -> None:
        """Keep the vector of a row, cut to the job's width and then of length 1 again."""
        if len(vector) > self._width:
            vector = vector[: self._width]
            vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
        self._vectors[row] = vector
        self.computed += 1

    def result(self) -> EmbeddingResult:
        """The result, once every row has its vector. Raises what keeping a large one in the spool raises."""
        data = self._vectors.astype("<f4", copy=False).tobytes()
        is_large = len(data) > MAX_INLINE_BYTES
        return EmbeddingResult(
            count=len(self.rows),
            dimensions=self._width,
            vectors=None if is_large else base64.b64encode(data).decode(),
            blob=self.work.keep_result(data) if is_large else None,
            tokens=[self.tokens] if is_large else [len(row) for row in self.rows],
            windows=self._windows,
            ms=round((time.perf_counter() - self._started_at) * 1000, 3),
        )


class TextBatch:
    """Rows that one decode computes. A batch holds one row at least, however long it is."""

    def __init__(self, max_rows: int, target_tokens: int, max_tokens: int) -> None:
        """`max_tokens`: what the last row or job that is added may make of the target."""
        self._max_rows = max_rows
        self._target_tokens = target_tokens
        self.max_tokens = max_tokens
        self._entries: list[tuple[EmbeddingJob, int]] = []
        self.tokens = 0

    @property
    def free_rows(self) -> int:
        return self._max_rows - len(self._entries)

    @property
    def free_tokens(self) -> int:
        """Tokens below the target, at least 0."""
        return max(0, self._target_tokens - self.tokens)

    @property
    def rows(self) -> Sequence[Tokens]:
        return [job.rows[row] for job, row in self._entries]

    def add_next_rows(self, job: EmbeddingJob) -> None:
        """Move rows of a job into an empty batch, until it has its share of what is pending: all the job's batches are alike,
        none is too small to be computed well."""
        share = job.pending_tokens / max(1, round(job.pending_tokens / self._target_tokens))
        while job.pending_rows and self.free_rows:
            size = len(job.rows[job.pending_rows[0]])
            if self._entries and (self.tokens >= share or self.tokens + size > self.max_tokens):
                return
            self._entries.append((job, job.pending_rows.popleft()))
            self.tokens += size
            job.pending_tokens -= size

    def add_job(self, job: EmbeddingJob) -> None:
        """Move all rows of a job into the batch."""
        self._entries += [(job, row) for row in job.pending_rows]
        self.tokens += job.tokens
        job.pending_rows.clear()
        job.pending_tokens = 0

    def set_vectors(self, vectors: Vectors) -> None:
        """Hand out the vectors of `rows`, (rows, width), to their jobs."""
        for (job, row), vector in zip(self._entries, vectors, strict=True):
            job.set_vector(row, vector)
