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

UNKNOWN_WORKER = ""
"""Stands for the worker of a kind of which nothing was heard yet."""


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
    """The state of each worker's model, and from those the state of each kind. Used on the event loop only."""

    def __init__(self) -> None:
        self._workers: dict[Kind, dict[str, ModelState]] = {kind: {UNKNOWN_WORKER: ModelState()} for kind in Kind}
        self._states = dict.fromkeys(Kind, ModelState())
        self._recorded = dict(self._states)
        self._changed = asyncio.Event()

    def __getitem__(self, kind: Kind) -> ModelState:
        """A kind is ready when at least one of its workers is, and failed when all are."""
        return self._states[kind]

    def of(self, kind: Kind, worker: str) -> ModelState:
        """The state of one worker's model."""
        return self._workers[kind].get(worker, _NEW)

    def ready_workers(self, kind: Kind) -> list[str]:
        """Ids of the workers whose model is loaded, the idle ones first."""
        ready = [(state.busy is not None, id) for id, state in self._workers[kind].items() if state.status == "ready"]
        return [id for _, id in sorted(ready, key=lambda entry: entry[0])]

    def counts(self, kind: Kind) -> tuple[int, int]:
        """How many workers have their model loaded, and how many of those run a job that this service knows of."""
        ready = [state for state in self._workers[kind].values() if state.status == "ready"]
        return len(ready), sum(state.busy is not None for state in ready)

    def has_another_ready(self, kind: Kind, worker: str) -> bool:
        """Whether the model of a worker besides this one is loaded."""
        return any(id != worker and state.status == "ready" for id, state in self._workers[kind].items())

    def update(self, kind: Kind, worker: str = UNKNOWN_WORKER, **changes: Any) -> None:
        """Replace fields of a worker's ModelState; whoever waits for a change is woken unless a job alone moved on."""
        workers = self._workers[kind]
        workers[worker] = replace(workers.get(worker, _NEW), **changes)
        if len(workers) == 1:
            self._states[kind] = workers[worker]
        else:
            self._states[kind] = max(workers.values(), key=_rank)
        if not changes.keys() <= _OF_JOBS:
            self.wake_waiting()

    def succeed(self, kind: Kind, worker: str, successor: str) -> None:
        """A worker's place is taken by the process that was started after it."""
        state = self._workers[kind].pop(worker, _NEW)
        self.update(kind, successor, **{field: getattr(state, field) for field in state.__struct_fields__})

    def give_place(self, kind: Kind, worker: str) -> None:
        """Nothing is expected of a worker any more, now that there is another."""
        if len(self._workers[kind]) > 1:
            self.remove(kind, worker)

    def remove(self, kind: Kind, worker: str) -> None:
        """A worker is gone for good. The last of a kind leaves the place of one that is awaited."""
        workers = self._workers[kind]
        if workers.pop(worker, None) is not None:
            self.update(kind, next(iter(workers), UNKNOWN_WORKER))
            self.wake_waiting()

    def fail_all(self, error: str) -> None:
        """Nothing can be promised any more: every port says so, until the service is started again."""
        for kind in Kind:
            if self[kind].error != error:
                logger.critical("%s", error)
                for worker in list(self._workers[kind]):
                    self.update(kind, worker, status="failed", error=error, is_crashing=True)
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


_NEW = ModelState()


def _rank(state: ModelState) -> tuple[int, bool]:
    """Which worker speaks for its kind: a ready one, of those a busy one; a failed one when there is no other."""
    return ("failed", "loading", "ready").index(state.status), state.busy is not None
