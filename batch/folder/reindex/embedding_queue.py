"""New vectors for texts that are in the outbox already, through the queue and behind interactive work."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from batch.errors import Unavailable
from batch.folder.pipeline import embedding_draft, result_of
from batch.folder.result_text import vector_bytes
from batch.payloads.embedding import EmbeddingResult
from batch.queue.channel import Waker
from batch.queue.jobs import Job, Kind, Origin, Priority, State
from batch.queue.spool import Spool
from batch.queue.store import Store
from batch.search.index.vectors import Matrix

_LOOK_INTERVAL_S = 0.05

NewVectors = tuple[list[tuple[int, int]], Matrix]
"""(windows of the text, a vector each)"""


class EmbeddingQueue:
    """Blocking. Needs the running service."""

    def __init__(self, store: Store, spool: Spool, waker: Waker, is_served: Callable[[], bool]) -> None:
        self._store = store
        self._spool = spool
        self._waker = waker
        self._is_served = is_served

    def embed(self, texts: Sequence[tuple[str, str]]) -> list[NewVectors | None]:
        """The vectors of (source, text) each; None where a job failed. Raises Unavailable when the service has gone."""
        drafts = [
            replace(
                embedding_draft(text, lambda data: self._spool.keep(data, durable=True), source),
                origin=Origin.CLI,
                priority=Priority.BATCH,
            )
            for source, text in texts
        ]
        if not drafts:
            return []
        self._store.submit(*drafts)
        self._waker.wake(Kind.EMBEDDING)
        return [self._vectors(self._ended(draft.id), len(text)) for draft, (_, text) in zip(drafts, texts, strict=True)]

    def _ended(self, id: str) -> Job | None:
        while True:
            job = self._store.job(id)
            if job is None or job.state.ended:
                return job
            if not self._is_served():
                raise Unavailable("The service has ended: start it and run `batch reindex --embed` again, it goes on.")
            time.sleep(_LOOK_INTERVAL_S)

    def _vectors(self, job: Job | None, length: int) -> NewVectors | None:
        if job is None or job.state is not State.DONE:
            return None
        result = result_of(job)
        assert isinstance(result, EmbeddingResult)
        vectors = np.frombuffer(vector_bytes(result, self._spool), "<f4").reshape(result.count, result.dimensions)
        windows = [(window.start, window.end) for window in result.windows or []] or [(0, length)]
        return windows, vectors.astype(np.float32)
