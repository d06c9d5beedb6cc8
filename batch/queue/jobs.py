"""The job: what every door (HTTP, folder, batch file, command line) turns its work into. Pure, no I/O."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any


class Kind(StrEnum):
    """Which model a job needs; each has a queue and a worker process of its own."""

    VLM = "vlm"
    """Vision-language chat and completion (llama.cpp)."""
    EMBEDDING = "embedding"
    """Text embeddings (llama.cpp)."""
    STT = "stt"
    """Speech to text (whisper.cpp)."""


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
    """Stopped by its caller or by a person; `retry` queues it again."""

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
    """Which door a job came through."""

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
    LARGE_CALL = 15
    """A caller waits, for so much that the short calls of others go first."""
    CALLER = 20
    """A caller waits on the socket."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A job before it is accepted."""

    kind: Kind
    task: str
    """What to do: chat, completion, embed or transcribe; docs in batch/payloads/."""
    request: Mapping[str, Any]
    """JSON object; holds sha256 names of spooled payloads, never the payloads."""
    origin: Origin
    priority: Priority
    blobs: tuple[str, ...] = ()
    """sha256 names of the spool files the job needs; kept until the job's row is gone."""
    source: str | None = None
    """For people: a file name or path below the inbox."""
    parent: str | None = None
    """Id of the job or batch this one belongs to."""
    waited: bool = False
    """True when the job is worthless once its caller is gone: cancelled at start-up after a crash."""
    id: str = field(default_factory=lambda: new_id())


@dataclass(frozen=True, slots=True)
class Job:
    """One row of the job table. Times are Unix seconds, None until they happen."""

    id: str
    kind: Kind
    task: str
    state: State
    origin: Origin
    priority: int
    request: Mapping[str, Any]
    created_at: float
    attempts: int = 0
    """How often a worker has taken it."""
    started_at: float | None = None
    finished_at: float | None = None
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    """What BatchError.record gave."""
    progress: Mapping[str, Any] | None = None
    """{"done": n, "total": n or None, "unit": "tokens"}, written about once a second."""
    source: str | None = None
    parent: str | None = None
    cancel: bool = False
    """A person or the caller wants it stopped; the worker obeys at its next unit."""
    waited: bool = False


def new_id() -> str:
    """A unique id that sorts by time: 12 hex digits of milliseconds, 8 random ones."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(4)}"
