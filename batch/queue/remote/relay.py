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
from batch.queue.latest import Latest
from batch.queue.remote.channel import EVERY_FRONT, Channel
from batch.queue.remote.packet import ForWorker, FromWorker
from batch.queue.remote.proof import proof_of


class _Route:
    """Where frames of a job that a worker here runs go, and what proves them."""

    __slots__ = ("front", "key", "number", "token")

    def __init__(self, started: Started) -> None:
        self.front, self.token, self.key, self.number = started.front, started.token, started.key, 0


class Relay:
    """One a home, on its event loop."""

    def __init__(self, channel: Channel, home: str, ask: Callable[[str, Question, float], Awaitable[Answer]]) -> None:
        """`ask` puts a question to a worker of this home, with a time-out in seconds."""
        self._channel = channel
        self._home = home
        self._ask = ask
        self._routes = Latest[str, _Route]()
        """Of each job that a worker of this home runs and another home accepted, and of what workers had that died."""

    def forward(self, queue: str, frame: WorkerFrame, worker: str) -> bool:
        """Send a frame of a worker to the home that it is for; False when that is this one."""
        route: _Route | None
        match frame:
            case Started():
                if frame.front in ("", self._home):
                    return False
                self._routes[frame.job] = route = _Route(frame)
                frame = replace(frame, key="")
            case Delta() | Progress() | PromptCounted() | SegmentEnded():
                route = self._routes.get(frame.job)
            case End():
                route = self._routes.pop(frame.job, None)
                # It is believed from the row, which has the result as well.
                frame = replace(frame, result=ABSENT, error=ABSENT)
            case _:
                return False
        if route is None:
            return False
        route.number += 1
        item = FromWorker(worker=worker, queue=queue, frame=frame, token=route.token, number=route.number)
        self._channel.send(route.front, replace(item, proof=proof_of(item, route.key)))
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
