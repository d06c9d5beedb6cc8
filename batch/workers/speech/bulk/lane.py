"""A lane: a thread that hears one bulk job at a time with a Whisper model of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from batch.payloads.events import JobEvent, ProgressUnit
from batch.payloads.job_payload import Payload
from batch.payloads.speech import TranscriptionResult
from batch.queue.jobs import Job
from batch.workers.engine import OwnWork, Work
from batch.workers.speech.whisper.model import WhisperModel

C = TypeVar("C", bound=msgspec.Struct)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LaneCall:
    """What a lane wants done in the engine's thread, and where it waits for the answer."""

    lane: Lane
    work: Callable[[], Any]
    answer: Future[Any]
    is_yield: bool = False
    """Whether it is the job's yield point: the lane computes nothing, and `work` returns how many threads there are."""

    def run(self) -> Any:
        """Do it; the result, which is not yet the answer. What it raises is raised in the lane, and None returned; what no
        engine may catch, such as Stopping, is raised here as well."""
        try:
            return self.work()
        except BaseException as error:
            self.answer.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return None

    def answer_now(self) -> None:
        """Do it, and answer."""
        result = self.run()
        if not self.answer.done():
            self.answer.set_result(result)


@dataclass(frozen=True, slots=True)
class LaneEnd:
    """A lane is done with its job: the result, or what was raised."""

    lane: Lane
    result: TranscriptionResult | BaseException


class Transcribe(Protocol):
    """Hears a job with a model; `stop` ends a native call in flight."""

    def __call__(self, work: OwnWork, model: WhisperModel, stop: threading.Event) -> TranscriptionResult: ...


class Lane:
    """One model, and the job that is heard with it. All that the job's Work is asked happens in the engine's thread, to which
    `calls` leads."""

    def __init__(self, model: WhisperModel, calls: queue.SimpleQueue[LaneCall | LaneEnd]) -> None:
        self.model = model
        self.stop = threading.Event()
        """Stops the native call in flight."""
        self.work: Work | None = None
        """The job in hand; None while there is none."""
        self.threads = 0
        """How many it computes with since its last yield point."""
        self._calls = calls

    def start(self, work: Work, transcribe: Transcribe) -> None:
        """Hear a job in a thread of its own, until its LaneEnd comes."""
        self.work = work
        self.stop.clear()
        lane_work = LaneWork(work, self)

        def hear() -> None:
            result: TranscriptionResult | BaseException
            try:
                result = transcribe(lane_work, self.model, self.stop)
            except BaseException as error:
                result = error
            self._calls.put(LaneEnd(self, result))

        threading.Thread(target=hear, name="lane", daemon=True).start()

    def ask(self, work: Callable[[], T], *, is_yield: bool = False) -> T:
        """Called by the lane's thread: have something done in the engine's thread, and wait for it."""
        call = LaneCall(self, work, Future(), is_yield)
        self._calls.put(call)
        result: T = call.answer.result()
        return result


class LaneWork:
    """A job's Work as a lane's thread uses it: each call is made by the engine's thread, while the lane waits."""

    def __init__(self, work: Work, lane: Lane) -> None:
        self._work, self._lane = work, lane

    @property
    def job(self) -> Job:
        return self._work.job

    @property
    def payload(self) -> Payload:
        return self._work.payload

    @property
    def is_watched(self) -> bool:
        return self._work.is_watched

    def yield_point(self, done: float | None = None, total: float | None = None, unit: ProgressUnit = "tokens") -> int:
        return self._lane.ask(lambda: self._work.yield_point(done, total, unit), is_yield=True)

    def emit(self, event: JobEvent) -> None:
        self._lane.ask(lambda: self._work.emit(event))

    def spool_path(self, sha256: str) -> Path:
        return self._lane.ask(lambda: self._work.spool_path(sha256))

    def keep_result(self, data: bytes) -> str:
        return self._lane.ask(lambda: self._work.keep_result(data))

    def checkpoint(self, step: int, data: msgspec.Struct) -> None:
        self._lane.ask(lambda: self._work.checkpoint(step, data))

    def checkpoints(self, type: type[C]) -> list[C]:
        return self._lane.ask(lambda: self._work.checkpoints(type))
