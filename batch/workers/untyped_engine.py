"""Transition: an engine that reads and writes dicts, as the worker's loop wants engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from batch.payloads.events import JobEvent
from batch.payloads.job_payload import Payload, Result
from batch.payloads.json_text import decode, encode
from batch.payloads.model_info import AnyModelInfo
from batch.payloads.questions import ANSWER_TYPES, Answer, ApplyTemplate, CountTokens, Question
from batch.payloads.untyped import to_event, to_request, to_result
from batch.queue.jobs import Job, Kind
from batch.workers.engine import Work


class UntypedWork:
    """Work with a request dict."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.job: Job = work.job
        self.payload: Payload = work.payload
        self.request: Mapping[str, Any] = to_request(work.payload)
        self.yield_point = work.yield_point
        self.is_watched = work.is_watched

    def emit(self, event: Mapping[str, Any] | JobEvent) -> None:
        self.work.emit(to_event(event))

    def spool_path(self, sha256: str) -> Path:
        return self.work.spool_path(sha256)

    def keep_result(self, data: bytes) -> str:
        return self.work.keep_result(data)

    def checkpoint(self, step: int, data: Any) -> None:
        self.work.checkpoint(step, data)

    def checkpoints(self, type: type[Any] = dict) -> list[Any]:
        return self.work.checkpoints(type)

    def claim_batch_mates(self, limit: int) -> list[UntypedWork]:
        return [UntypedWork(mate) for mate in self.work.claim_batch_mates(limit)]

    def finish(self, result: Mapping[str, Any] | Result) -> None:
        self.work.finish(to_result(self.payload, result))

    def fail(self, error: Exception) -> None:
        self.work.fail(error)

    def put_back(self) -> None:
        self.work.put_back()


class UntypedEngine:
    """An Engine around one that takes an UntypedWork."""

    def __init__(self, kind: Kind, engine: Any) -> None:
        self._kind = kind
        self._engine = engine
        self.has_short_steps: bool = engine.has_short_steps

    def load(self, report: Callable[[float], None]) -> AnyModelInfo:
        facts = dict(self._engine.load(report))
        for old, new in (("pack_tokens", "batch_tokens"), ("pack_rates", "batch_rates")):
            if old in facts:
                facts[new] = facts.pop(old)
        info: AnyModelInfo = msgspec.convert({**facts, "kind": str(self._kind)}, AnyModelInfo)
        return info

    def run(self, work: Work) -> Result:
        return to_result(work.payload, self._engine.run(UntypedWork(work)))

    def ask(self, question: Question) -> Answer:
        payload: dict[str, Any] = msgspec.to_builtins(question)
        name = payload.pop("question")
        if isinstance(question, CountTokens | ApplyTemplate):
            payload = to_request(question.payload)
        answer = self._engine.ask(name, payload)
        return decode(encode({**answer, "batches": answer.get("packs", 0)}), ANSWER_TYPES[type(question)])

    def interrupt(self) -> None:
        self._engine.interrupt()

    def close(self) -> None:
        self._engine.close()
