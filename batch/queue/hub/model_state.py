"""What the service knows of its models: loading, ready or failed, and which job runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from batch.errors import Unavailable
from batch.payloads.model_info import AnyModelInfo
from batch.queue.jobs import Kind

logger = logging.getLogger("batch.hub")

_OF_JOBS = {"beat", "busy", "has_ended_jobs"}
"""Fields of a ModelState that change with each job."""

UNKNOWN_WORKER = ""
"""Stands for the worker of a queue of which nothing was heard yet."""


class ModelState(Struct, frozen=True):
    """One worker's model. A struct, as each request replaces it twice."""

    status: Literal["unloaded", "loading", "ready", "failed"] = "loading"
    """unloaded: no worker holds the model, its next job loads it."""
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
    has_ended_jobs: bool = False
    """Whether this worker process has ended a job."""
    is_crashing: bool = False
    """Failed as its worker dies again and again before the model is loaded: a new worker changes that by being ready only."""

    @property
    def name(self) -> str:
        """The model's name; empty while it is not known."""
        return self.info.model if self.info else ""


class ModelStates:
    """The state of each worker's model, and from those the state of each queue. Used on the event loop only."""

    def __init__(self, queues: Iterable[str] = tuple(Kind)) -> None:
        """`queues`: those of this home's models; workers of other homes may serve others."""
        self.queues = tuple(queues)
        self._workers: dict[str, dict[str, ModelState]] = {queue: {UNKNOWN_WORKER: ModelState()} for queue in self.queues}
        self._states = dict.fromkeys(self.queues, ModelState())
        self._recorded = dict(self._states)
        self._changed = asyncio.Event()

    def __getitem__(self, queue: str) -> ModelState:
        """A queue is ready when at least one of its workers is, and failed when all are."""
        return self._states.get(queue, _NEW)

    def is_known(self, queue: str) -> bool:
        """Whether it is a queue of this home's models, or one that a worker of another home serves."""
        return queue in self._workers

    def of(self, queue: str, worker: str) -> ModelState:
        """The state of one worker's model."""
        return self._workers.get(queue, {}).get(worker, _NEW)

    def refuse_if_failed(self, queue: str) -> None:
        """Raise Unavailable where a queue's model could not be loaded."""
        if self[queue].status == "failed":
            raise Unavailable(self[queue].error)

    def ready_workers(self, queue: str) -> list[str]:
        """Ids of the workers whose model is loaded, the idle ones first."""
        ready = [(state.busy is not None, id) for id, state in self._workers.get(queue, {}).items() if state.status == "ready"]
        return [id for _, id in sorted(ready, key=lambda entry: entry[0])]

    def idle_worker(self, queue: str) -> str:
        """Id of a worker whose model is loaded and that runs no job; empty where there is none."""
        for worker, state in self._workers.get(queue, {}).items():
            if state.status == "ready" and state.busy is None:
                return worker
        return ""

    def counts(self, queue: str) -> tuple[int, int]:
        """How many workers have their model loaded, and how many of those run a job that this service knows of."""
        ready = [state for state in self._workers.get(queue, {}).values() if state.status == "ready"]
        return len(ready), sum(state.busy is not None for state in ready)

    def has_another_ready(self, queue: str, worker: str) -> bool:
        """Whether the model of a worker besides this one is loaded."""
        return any(id != worker and state.status == "ready" for id, state in self._workers.get(queue, {}).items())

    def update(self, queue: str, worker: str = UNKNOWN_WORKER, **changes: Any) -> None:
        """Replace fields of a worker's ModelState; whoever waits for a change is woken unless a job alone moved on."""
        workers = self._workers.setdefault(queue, {})
        workers[worker] = replace(workers.get(worker, _NEW), **changes)
        if len(workers) == 1:
            self._states[queue] = workers[worker]
        else:
            self._states[queue] = max(workers.values(), key=_rank)
        if not changes.keys() <= _OF_JOBS:
            self.wake_waiting()

    def succeed(self, queue: str, worker: str, successor: str) -> None:
        """A worker's place is taken by the process that was started after it."""
        state = self._workers.setdefault(queue, {}).pop(worker, _NEW)
        self.update(queue, successor, **{field: getattr(state, field) for field in state.__struct_fields__})

    def give_place(self, queue: str, worker: str) -> None:
        """Nothing is expected of a worker any more, now that there is another."""
        if len(self._workers.get(queue, {})) > 1:
            self.remove(queue, worker)

    def remove(self, queue: str, worker: str) -> None:
        """A worker is gone for good. The last of a queue of this home's models leaves the place of one that is awaited."""
        workers = self._workers.get(queue, {})
        if workers.pop(worker, None) is not None:
            if workers or queue in self.queues:
                self.update(queue, next(iter(workers), UNKNOWN_WORKER))
            else:  # other homes name such queues as they like
                for states in (self._workers, self._states, self._recorded):
                    states.pop(queue, None)
            self.wake_waiting()

    def fail_all(self, error: str) -> None:
        """Nothing can be promised any more: every port says so, until the service is started again."""
        for queue in self.queues:
            if self[queue].error != error:
                logger.critical("%s", error)
                for worker in list(self._workers[queue]):
                    self.update(queue, worker, status="failed", error=error, is_crashing=True)
                self.mark_recorded(queue, self[queue])

    def next_change(self) -> asyncio.Event:
        """An event that is set once some model's state has changed since this call."""
        return self._changed

    def wake_waiting(self) -> None:
        """Let whoever waits for a change look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def recorded(self, queue: str) -> ModelState:
        """The state as `batch status` can read it by now: /health reports this one, so that the two never disagree."""
        return self._recorded.get(queue, _NEW)

    def mark_recorded(self, queue: str, state: ModelState) -> None:
        """The database holds this state of a model by now."""
        self._recorded[queue] = state


_NEW = ModelState()


def _rank(state: ModelState) -> tuple[int, bool]:
    """Which worker speaks for its queue: a ready one, of those a busy one; a failed one when there is no other."""
    return ("failed", "unloaded", "loading", "ready").index(state.status), state.busy is not None
