"""Brings what this home's workers report to the homes that accepted their jobs, and questions of those to the workers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from msgspec.structs import replace

from batch.errors import BatchError
from batch.payloads.events import Delta, Progress, PromptCounted, SegmentEnded, Started
from batch.payloads.json_text import encode
from batch.payloads.questions import Answer, Question
from batch.queue.frames import ABSENT, Answered, End, RowChanged, WorkerFrame
from batch.queue.remote.channel import EVERY_FRONT, Channel
from batch.queue.remote.packet import ForWorker, FromWorker


class Relay:
    """One a home, on its event loop."""

    def __init__(self, channel: Channel, home: str, ask: Callable[[str, Question, float], Awaitable[Answer]]) -> None:
        """`ask` puts a question to a worker of this home, with a time-out in seconds."""
        self._channel = channel
        self._home = home
        self._ask = ask
        self._fronts: dict[str, str] = {}
        """Which home accepted each job that a worker of this one runs."""

    def forward(self, queue: str, frame: WorkerFrame, worker: str) -> bool:
        """Send a frame of a worker to the home that it is for; False when that is this one."""
        match frame:
            case Started():
                if frame.front in ("", self._home):
                    return False
                self._fronts[frame.job] = front = frame.front
            case Delta() | Progress() | PromptCounted() | SegmentEnded():
                front = self._fronts.get(frame.job, "")
            case End():
                front = self._fronts.pop(frame.job, "")
                # It is believed from the row, which has the result as well.
                frame = replace(frame, result=ABSENT, error=ABSENT)
            case _:
                return False
        if not front:
            return False
        self._channel.send(front, FromWorker(worker=worker, queue=queue, frame=frame))
        return True

    def report_ended(self, job: str, queue: str) -> None:
        """Let every service look at a job that ended without a worker that would report it."""
        self._channel.send(EVERY_FRONT, FromWorker(worker="", queue=queue, frame=RowChanged(job=job)))

    async def answer(self, asked: ForWorker, timeout_s: float) -> None:
        """Put another home's question to a worker of this one, and send back what it says."""
        number = asked.ask.number
        try:
            answer = await self._ask(asked.worker, asked.ask.question, timeout_s)
            answered = Answered(number=number, answer=msgspec.Raw(encode(answer)))
        except BatchError as error:
            answered = Answered(number=number, error=msgspec.Raw(encode(error.record())))
        self._channel.send(asked.home, FromWorker(worker=asked.worker, queue=asked.queue, frame=answered))
