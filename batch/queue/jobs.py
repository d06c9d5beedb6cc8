"""The job: what HTTP, folder, batch file and command line turn its work into. Pure, no I/O."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from batch.errors import BatchError
from batch.model_kind import Kind as Kind
from batch.model_kind import queue_of

if TYPE_CHECKING:
    from batch.payloads.job_payload import Payload, Result


class State(StrEnum):
    """Where a job is in its life; `TRANSITIONS` holds the legal steps."""

    QUEUED = "queued"
    """Its message waits in the queue."""
    RUNNING = "running"
    """A worker has taken its message and holds a claim on it."""
    DONE = "done"
    """Its result is in the row."""
    FAILED = "failed"
    """Its error is in the row; `retry` queues it again."""
    CANCELLED = "cancelled"
    """Stopped by its client or by a person; `retry` queues it again."""

    @property
    def ended(self) -> bool:
        return self in (State.DONE, State.FAILED, State.CANCELLED)


TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.CANCELLED, State.FAILED}),
    State.RUNNING: frozenset({State.DONE, State.FAILED, State.CANCELLED, State.QUEUED}),
    State.DONE: frozenset(),
    State.FAILED: frozenset({State.QUEUED}),
    State.CANCELLED: frozenset({State.QUEUED}),
}


class Origin(StrEnum):
    """How a job came in."""

    HTTP = "http"
    """A request on one of the three ports."""
    BATCH = "batch"
    """A line of a batch file."""
    INBOX = "inbox"
    """A file dropped into the inbox, or what follows from one."""
    CLI = "cli"
    """`batch submit`."""


class Priority(IntEnum):
    """Who goes first; FIFO inside a class."""

    INBOX = 0
    """Dropped files: nobody waits on a socket."""
    BATCH = 10
    """Batch lines and `batch submit`: somebody will ask for them."""
    LARGE_REQUEST = 15
    """A client waits, for so much that the short requests of others go first."""
    INTERACTIVE = 20
    """A client waits on the socket."""


MAX_BULK_PRIORITY = Priority.BATCH
"""Above it somebody waits for the answer."""

KIND_OF_TASK: Mapping[str, Kind] = {
    "chat": Kind.VLM,
    "completion": Kind.VLM,
    "embed": Kind.EMBEDDING,
    "transcribe": Kind.STT,
}
"""Which model does a task; the payload of each is a struct in batch/payloads/."""


class UnreadableJob(BatchError):
    """This job was written by another version of batch and cannot be read: cancel it and send it again."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A job before it is accepted."""

    payload: Payload
    """What to do; holds sha256 names of spooled bytes, never the bytes."""
    origin: Origin
    priority: Priority
    blobs: tuple[str, ...] = ()
    """sha256 names of the spool files the job needs; kept until the job's row is gone."""
    source: str | None = None
    """For people: a file name or path below the inbox."""
    parent: str | None = None
    """Id of the job or batch this one belongs to."""
    waited: bool = False
    """True when the job is worthless once its client is gone: cancelled at start-up after a crash."""
    model: str = ""
    """The name that the settings give the model it is for; empty: the kind's own."""
    holder: str = ""
    """Id of the worker that it is kept for, where several share a queue; empty: none."""
    hold_s: float = 0.0
    """So long the others pass over it."""
    id: str = field(default_factory=lambda: new_id())
    task: str = field(init=False)
    """What to do in a word: chat, completion, embed or transcribe."""
    kind: Kind = field(init=False)
    """Which kind of model it is for."""
    queue: str = field(init=False)
    """The queue that its message goes into."""

    def __post_init__(self) -> None:
        # Once: each is asked for again and again on a request's way.
        put = object.__setattr__
        put(self, "task", str(type(self.payload).__struct_config__.tag))
        put(self, "kind", KIND_OF_TASK[self.task])
        put(self, "queue", queue_of(self.kind, self.model))


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far a running job is, as its row has it: written about once a second."""

    done: float
    total: float | None = None
    unit: str = "tokens"
    start: float | None = None
    """Where this attempt began, which an earlier one may have reached."""


@dataclass(frozen=True)
class Job:
    """One row of the job table. Times are Unix seconds, None until they happen."""

    id: str
    kind: Kind
    task: str
    state: State
    origin: Origin
    priority: int
    payload_json: str
    """What `payload` is read from."""
    created_at: float
    attempts: int = 0
    """How often a worker has taken it."""
    started_at: float | None = None
    finished_at: float | None = None
    result_json: str | None = None
    """What `result` is read from."""
    error: Mapping[str, Any] | None = None
    """What BatchError.record gave."""
    progress: JobProgress | None = None
    source: str | None = None
    parent: str | None = None
    cancel: bool = False
    """A person or the client wants it stopped; the worker obeys at its next yield point."""
    waited: bool = False
    model: str = ""
    """The name that the settings give the model it is for; empty: the kind's own."""

    @property
    def queue(self) -> str:
        """The queue that its message is or was in."""
        return queue_of(self.kind, self.model)

    @cached_property
    def payload(self) -> Payload:
        """What to do. Raises UnreadableJob where the row does not hold what this version of batch writes."""
        from batch.payloads.job_payload import decode_payload  # here, as `batch status` needs none, and msgspec takes time

        try:
            return decode_payload(self.task, self.payload_json)
        except (ValueError, KeyError, RecursionError) as error:
            raise self._unreadable("payload", error) from error

    @cached_property
    def result(self) -> Result | None:
        """What came out, None before. Raises UnreadableJob where the row does not hold what this version of batch writes."""
        if self.result_json is None:
            return None
        from batch.payloads.job_payload import decode_result

        try:
            return decode_result(self.task, self.result_json)
        except (ValueError, KeyError, RecursionError) as error:
            raise self._unreadable("result", error) from error

    def _unreadable(self, part: str, error: Exception) -> UnreadableJob:
        return UnreadableJob(
            f"The {part} of job {self.id} ({self.task}) was written by another version of batch and cannot be read ({error}): "
            "send the file or request again."
        )


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


@dataclass(frozen=True, slots=True)
class JobSummary:
    """A job without its payload and its result, each of which may be large. Times are Unix seconds."""

    id: str
    kind: Kind
    task: str
    state: State
    origin: Origin
    source: str | None
    parent: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    attempts: int
    progress: JobProgress | None
    error: str | None
    """Its sentence."""
    model: str = ""
    """The name that the settings give the model it is for; empty: the kind's own."""


class SummaryPage(NamedTuple):
    """A page of a list of jobs, the newest first."""

    rows: list[JobSummary]
    before: str | None
    """Where the next page begins; None behind the last."""


def new_id() -> str:
    """A unique id that sorts by time: 12 hex digits of milliseconds, 12 random ones. A second job of an id would be taken for
    the first one, sent again."""
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(6).hex()}"
