"""A hub whose jobs are played from a script: the HTTP side in memory, without processes or models."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
import weakref
from collections.abc import AsyncIterator, Callable
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import msgspec

from batch.errors import BatchError, Cancelled
from batch.payloads.events import JobEvent
from batch.payloads.job_payload import RESULT_TYPES, Payload, Result, task_of
from batch.payloads.model_info import ChatModelInfo
from batch.payloads.questions import ANSWER_TYPES, ApplyTemplate, CountTokens, Question
from batch.queue.frames import End, JobEnded, TicketEvent
from batch.queue.hub.model_state import ModelState
from batch.queue.jobs import Draft, Kind, State
from batch.queue.open_store import open_store
from batch.queue.spool import Spool
from batch.queue.store import Store

R = TypeVar("R", bound=Result)
T = TypeVar("T")

USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "total_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 1},
}
TIMINGS = {
    "cache_n": 2,
    "prompt_n": 5,
    "prompt_ms": 1.0,
    "prompt_per_token_ms": 0.0,
    "prompt_per_second": 0.0,
    "predicted_n": 3,
    "predicted_ms": 2.0,
    "predicted_per_token_ms": 0.0,
    "predicted_per_second": 0.0,
}

Script = Callable[[Draft], list[Any]]
"""Events of a job in order, structs or dicts; a number waits that many seconds, an exception fails the job, the last
item is its result."""


def answer(content: str = "", finish: str = "stop", **message: Any) -> dict[str, Any]:
    """A chat result."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    return {"choices": [choice], "usage": USAGE, "timings": TIMINGS}


def delta(index: int = 0, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    event = {"type": "delta", "index": index, "delta": fields}
    return {**event, "finish_reason": finish} if finish else event


def payload_json(payload: Payload) -> dict[str, Any]:
    """A payload as its row's JSON holds it, without its task: defaults are left out."""
    found: dict[str, Any] = json.loads(msgspec.json.encode(payload))
    del found["task"]
    return found


def as_event(event: Any) -> JobEvent:
    """A struct, or a dict of its fields, as an event."""
    return event if isinstance(event, msgspec.Struct) else msgspec.convert(event, JobEvent)


def as_result(payload: Payload, result: Any) -> Result:
    """A struct, or a dict of its fields, as the result of a job."""
    return result if isinstance(result, msgspec.Struct) else msgspec.convert(result, RESULT_TYPES[task_of(payload)])


class ScriptedTicket:
    def __init__(self, hub: ScriptedHub, draft: Draft) -> None:
        self._hub, self.draft, self.id, self.kind = hub, draft, draft.id, draft.kind
        self.queue = draft.queue
        self.ended = False
        self.cancelled = False

    async def events(self) -> AsyncIterator[TicketEvent]:
        *script, last = self._hub.script(self.draft)
        for step in script:
            if isinstance(step, (int, float)):
                await asyncio.sleep(step)
            else:
                yield as_event(step)
        self.ended = True
        failed = isinstance(last, BatchError)
        self._hub.outcomes[self.id] = last if failed else as_result(self.draft.payload, last)
        yield End(job=self.id, state=State.FAILED if failed else State.DONE)

    async def bursts(self) -> AsyncIterator[list[TicketEvent]]:
        async for event in self.events():
            yield [event]

    async def result(self, type: type[R]) -> R:
        async for event in self.events():
            if isinstance(event, End):
                return await self._hub.outcome(self.id, type, event)
        raise Cancelled()

    async def ahead(self) -> int:
        place = self._hub.places.pop(0) if len(self._hub.places) > 1 else self._hub.places[0]
        if isinstance(place, BatchError):
            raise place
        return place

    async def cancel(self) -> None:
        self.cancelled = True


class StoreOnDemand:
    """A database of its own for routes that store what they answer, opened at the first that does."""

    is_shared = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened, name)

    @cached_property
    def _opened(self) -> Store:
        folder = tempfile.TemporaryDirectory()
        store = open_store(Path(folder.name) / "batch.db")
        weakref.finalize(self, store.close)
        weakref.finalize(self, folder.cleanup)
        return store


class ScriptedHub:
    def __init__(self, script: Script) -> None:
        self.script = script
        self.outcomes: dict[str, Result | BatchError] = {}
        self.tickets: list[ScriptedTicket] = []
        self.small: list[bool] = []
        """Of each draft whether it may be accepted on the event loop."""
        self.blobs: dict[str, bytes] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        """Name and content of each question, a job's payload as its request."""
        self.answers: dict[str, Any] = {"count": {"tokens": 7, "n_ctx": 4096}}
        self.places: list[int | BatchError] = [0]
        self.state = ModelState("ready", 1.0, ChatModelInfo(model="tiny", n_ctx=4096, vision=True))
        self.models = SimpleNamespace(queues=tuple(Kind))
        self.store = cast(Store, StoreOnDemand())

    @cached_property
    def spool(self) -> Spool:
        """A spool beside its database."""
        return Spool(self.store.path.parent / "spool")

    async def in_thread(self, work: Callable[[], T]) -> T:
        return work()

    def path(self, sha256: str) -> Path:
        return self.spool.path(sha256)

    async def fetch(self, sha256: str) -> Path:
        return self.path(sha256)

    @property
    def drafts(self) -> list[Draft]:
        return [ticket.draft for ticket in self.tickets]

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The drafts' payloads as dicts, defaults left out."""
        return [payload_json(draft.payload) for draft in self.drafts]

    async def submit(self, draft: Draft, *, durable: bool = False, is_small: bool = False) -> ScriptedTicket:
        self.tickets.append(ScriptedTicket(self, draft))
        self.small.append(is_small)
        return self.tickets[-1]

    async def outcome(self, job: str, type: type[R], end: End | None = None) -> R:
        found = self.outcomes[job]
        if isinstance(found, BatchError):
            raise found
        assert isinstance(found, type)
        return found

    async def ask(self, queue: str, question: Question, timeout: float = 60) -> Any:
        content = msgspec.to_builtins(question)
        name = content.pop("question")
        if isinstance(question, CountTokens | ApplyTemplate):
            content = payload_json(question.payload)
        self.asked.append((name, content))
        found = self.answers[name]
        if isinstance(found, BatchError):
            raise found
        return msgspec.convert(found, ANSWER_TYPES[type(question)])

    async def keep(self, data: bytes, *, durable: bool = False) -> str:
        sha = hashlib.sha256(data).hexdigest()
        self.blobs[sha] = data
        return sha

    def queue_named(self, kind: Kind, requested: str | None) -> str:
        return kind

    def for_model(self, draft: Draft, requested: object) -> Draft:
        return draft

    def model(self, queue: str) -> ModelState:
        return self.state

    recorded_model = model

    def worker_counts(self, queue: str) -> tuple[int, int]:
        is_ready = self.state.status == "ready"
        return int(is_ready), int(is_ready and self.state.busy is not None)

    def waiting_clients(self, queue: str) -> int:
        return 0

    def listen(self, callback: Callable[[JobEnded], None]) -> None:
        pass
