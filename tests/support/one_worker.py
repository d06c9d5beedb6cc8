"""A store as one worker sees it: it remembers its leases, so that tests can speak of jobs by their ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batch.queue.jobs import Draft, Job, JobProgress, Kind, Origin, Priority, State
from batch.queue.sqlite.sqlite_store import SqliteStore
from batch.queue.store import Ending, Lease, Store


class OneWorker:
    """Everything else is the store's own."""

    def __init__(self, store: Store, worker: str = "w1") -> None:
        self.store = store
        self.worker = worker
        self.leases: dict[str, Lease] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def lease(self, job: str) -> Lease:
        """The lease of a job; one that was never given out for a job that this worker never took."""
        nobody = Job(job, Kind.VLM, "chat", State.RUNNING, Origin.CLI, Priority.BATCH, "{}", 0.0)
        return self.leases.get(job, Lease(nobody, 0))

    def take(self, kind: Kind, *, above: float | None = None) -> Job | None:
        leases = self.store.take(kind, self.worker, above=above)
        self.leases |= {lease.job.id: lease for lease in leases}
        return leases[0].job if leases else None

    def submit_to(self, draft: Draft) -> Lease | None:
        assert isinstance(self.store, SqliteStore)
        lease = self.store.submit_to(self.worker, draft)
        self.leases |= {draft.id: lease} if lease else {}
        return lease

    def take_mates(self, first: Job, limit: int) -> list[Job]:
        leases = self.store.take(first.kind, self.worker, batch_mate=self.lease(first.id), limit=limit)
        self.leases |= {lease.job.id: lease for lease in leases}
        return [lease.job for lease in leases]

    def end(
        self,
        job: str,
        state: State,
        *,
        result: str | None = None,
        error: Mapping[str, Any] | None = None,
        durable: bool = False,
    ) -> bool:
        return self.store.end([Ending(self.lease(job), state, result, error)], durable=durable)[0]

    def put_back(self, job: str, *, count: bool) -> None:
        self.store.put_back(self.lease(job), count=count)

    def recover(self, kind: Kind, limit: int) -> list[tuple[str, State]]:
        """As its successor."""
        return self.store.recover(kind, "w2", limit, predecessor=self.worker)

    def checkpoint(self, job: str, step: int, data: str) -> None:
        self.store.checkpoint(self.lease(job), step, data)

    def checkpoints(self, job: str) -> list[str]:
        return self.store.checkpoints(self.lease(job))

    def progress(self, job: str, progress: JobProgress) -> None:
        self.store.progress(self.lease(job), progress)

    def refer(self, job: str, sha256: str) -> None:
        self.store.refer(self.lease(job), sha256)
