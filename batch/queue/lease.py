"""The lease: a worker's hold on a job. Pure, no I/O."""

from __future__ import annotations

from dataclasses import dataclass

from batch.queue.jobs import Job


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker's hold on a running job."""

    job: Job
    token: int
    """Of this take, the fencing token: writes under an older one are refused."""
    front: str = ""
    """The service that accepted the job, to which its events go."""
    key: str = ""
    """Known to this worker and to services alone, where several machines share a queue: it proves the job's events."""
