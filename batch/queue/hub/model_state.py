"""What the service knows of its models: loading, ready or failed, and which job runs."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from batch.payloads.model_info import AnyModelInfo
from batch.queue.jobs import Kind

logger = logging.getLogger("batch.hub")

_OF_JOBS = {"beat", "busy"}
"""Fields of a ModelState that change with each job."""


class ModelState(Struct, frozen=True):
    """One worker's model. A struct, as each request replaces it twice."""

    status: Literal["loading", "ready", "failed"] = "loading"
    progress: float = 0.0
    """Loading, 0 to 1."""
    info: AnyModelInfo | None = None
    """What Engine.load returned; None until it was ready once."""
    error: str | None = None
    """One sentence, when failed."""
    pid: int | None = None
    busy: str | None = None
    """Id of the job that runs."""
    beat: float = 0.0
    """time.monotonic() of the last sign of life."""

    was_ready: bool = False
    """Whether this worker process has loaded its model."""
    is_crashing: bool = False
    """Failed as its worker dies again and again before the model is loaded: a new worker changes that by being ready only."""

    @property
    def name(self) -> str:
        """The model's name; empty while it is not known."""
        return self.info.model if self.info else ""


class ModelStates:
    """The state of each kind's model. Used on the event loop only."""

    def __init__(self) -> None:
        self._states = dict.fromkeys(Kind, ModelState())
        self._recorded = dict(self._states)
        self._changed = asyncio.Event()

    def __getitem__(self, kind: Kind) -> ModelState:
        return self._states[kind]

    def update(self, kind: Kind, **changes: Any) -> None:
        """Replace fields of a ModelState; whoever waits for a change is woken unless a job alone moved on."""
        self._states[kind] = replace(self._states[kind], **changes)
        if not changes.keys() <= _OF_JOBS:
            self.wake_waiting()

    def fail_all(self, error: str) -> None:
        """Nothing can be promised any more: every port says so, until the service is started again."""
        for kind in Kind:
            if self[kind].error != error:
                logger.critical("%s", error)
                self.update(kind, status="failed", error=error, is_crashing=True)
                self.mark_recorded(kind, self[kind])

    def next_change(self) -> asyncio.Event:
        """An event that is set once some model's state has changed since this call."""
        return self._changed

    def wake_waiting(self) -> None:
        """Let whoever waits for a change look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def recorded(self, kind: Kind) -> ModelState:
        """The state as `batch status` can read it by now: /health reports this one, so that the two never disagree."""
        return self._recorded[kind]

    def mark_recorded(self, kind: Kind, state: ModelState) -> None:
        """The database holds this state of a model by now."""
        self._recorded[kind] = state
