"""The frames of the stream between a worker and the supervisor: JSON objects, one a line, told apart by "type"."""

from __future__ import annotations

import msgspec

from batch.payloads.events import Delta, JobEvent, Progress, PromptCounted, SegmentEnded, Started
from batch.payloads.model_info import AnyModelInfo
from batch.payloads.questions import Question
from batch.queue.jobs import Kind, Lease, State

ABSENT = msgspec.Raw(b"null")
"""Stands in a frame's field that has no JSON."""


class _Frame(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, tag_field="type"):
    """Base of the frames that are no job's events."""


class Hello(_Frame, tag="hello", frozen=True, kw_only=True):
    """A worker's first frame."""

    queue: str
    """The queue that it serves."""
    pid: int
    worker: str = ""
    """Its id, random at each start: under this name it leases jobs."""


class RowChanged(_Frame, tag="row_changed", frozen=True, kw_only=True):
    """From another process, the command line: it changed a job's row."""

    job: str


class Loading(_Frame, tag="loading", frozen=True, kw_only=True):
    """How far loading the model is."""

    progress: float
    """0 to 1."""


class Ready(_Frame, tag="ready", frozen=True, kw_only=True):
    """The model is loaded."""

    info: AnyModelInfo


BROKEN_STATUS = 3
"""Exit status of a worker that cannot load its model and has said why: tried again with a longer pause than a crash."""


class Broken(_Frame, tag="broken", frozen=True, kw_only=True):
    """The model cannot be loaded."""

    message: str
    """One sentence."""


class Beat(_Frame, tag="beat", frozen=True, kw_only=True):
    """A sign of life from a job that has no progress to report."""


class DiskWaiting(_Frame, tag="disk_waiting", frozen=True, kw_only=True):
    """A write that must not be lost waits for the disk, and nothing goes on before that."""

    error: msgspec.Raw
    """What BatchError.record gave."""


class Answered(_Frame, tag="answered", frozen=True, kw_only=True):
    """The answer to an Ask frame, or the error instead."""

    number: int
    answer: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT
    """What BatchError.record gave."""


class End(_Frame, tag="end", frozen=True, kw_only=True):
    """A job's last event; result and error stand in its row too."""

    job: str
    state: State
    resumes: str | None = None
    """The job that goes on now, inside which this one ran."""
    seconds: float | None = None
    """How long it ran, when it is done."""
    result: msgspec.Raw = ABSENT
    """Absent where it is large."""
    error: msgspec.Raw = ABSENT
    """What BatchError.record gave."""
    closing: bool = False
    """The service ends, and nothing is known of the job."""
    is_written: bool = True
    """Whether the job's row says so by now. Where it does not, another End follows; if the worker dies before, the job is done
    again, and nobody waits for it."""


WorkerFrame = (
    Hello
    | RowChanged
    | Loading
    | Ready
    | Broken
    | Beat
    | DiskWaiting
    | Answered
    | End
    | Started
    | PromptCounted
    | Progress
    | Delta
    | SegmentEnded
)
"""What the supervisor reads."""

TicketEvent = JobEvent | End
"""What whoever waits for a job reads; End comes last."""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A question to a worker's engine: what the supervisor sends."""

    number: int
    question: Question


class JobEnded(msgspec.Struct, frozen=True, kw_only=True):
    """What listeners hear of every job that ends."""

    job: str
    kind: Kind
    state: State
    waited: bool
    """Whether a client waited for it on a socket."""


class Handed(msgspec.Struct, frozen=True, kw_only=True):
    """A job that was leased to a worker as it was accepted: a datagram in place of a wake-up."""

    worker: str
    """The worker's id: its successor listens at the same place."""
    lease: Lease
