"""Bulk jobs heard beside each other: the decoder of one keeps the cores busy that the encoder of another leaves."""

from __future__ import annotations

import contextlib
import logging
import queue
import time
from collections import deque
from collections.abc import Iterator

from batch.errors import ModelProblem
from batch.payloads.speech import TranscriptionResult
from batch.queue.jobs import Priority
from batch.workers.engine import Work
from batch.workers.speech.bulk.lane import Lane, LaneCall, LaneEnd, Transcribe
from batch.workers.speech.bulk.models import ModelCopies
from batch.workers.speech.whisper.model import WhisperModel
from batch.workers.stopping import Stopping

logger = logging.getLogger("batch.worker")

CLAIM_INTERVAL_S = 0.5
"""Between two looks for a further job while a lane is free."""
REST_TIMEOUT_S = 0.5
"""So long a more urgent job waits for the other lanes' native calls to stop."""


class Lanes:
    """Bulk jobs of one worker until none waits. `run` belongs to the engine's thread, in which all calls of Work are made; a
    more urgent job runs inside a lane's yield point, with that lane's model."""

    def __init__(self, models: ModelCopies, transcribe: Transcribe, lead: Work) -> None:
        self._models, self._transcribe, self._lead = models, transcribe, lead
        self._calls: queue.SimpleQueue[LaneCall | LaneEnd] = queue.SimpleQueue()
        self._lanes: list[Lane] = []
        self._put_off: deque[LaneCall | LaneEnd] = deque()
        """What came while a more urgent job was about to begin."""
        self._resting_calls: list[LaneCall] = []
        """Yield points that have passed and are not answered, as the cores are taken."""
        self._threads = 1
        """What the last yield point gave to all lanes together."""
        self._resting: Lane | None = None
        """The lane that waits for the engine's thread: its model is free."""
        self._next_claim = 0.0
        self._inner_jobs = 0
        """More urgent jobs inside a lane's yield point, and inside one another."""

    def run(self) -> None:
        """Hear the lead and all that wait, each ended as soon as its result is there."""
        self._start(self._free_lane(), self._lead)
        try:
            while any(lane.work is not None for lane in self._lanes):
                self._claim()
                try:
                    message = self._put_off.popleft() if self._put_off else self._calls.get(timeout=CLAIM_INTERVAL_S)
                except queue.Empty:
                    continue
                if isinstance(message, LaneEnd):
                    self._end(message)
                else:
                    self._answer(message)
                self._let_compute()
        finally:
            self._end_lanes()

    @contextlib.contextmanager
    def inner_job(self) -> Iterator[WhisperModel]:
        """The model for a more urgent job, which was taken at a lane's yield point. It has all cores: the other lanes' chunks
        are broken off, and begun again after it."""
        assert self._resting is not None
        self._inner_jobs += 1
        try:
            self._rest()
            yield self._resting.model
        finally:
            self._inner_jobs -= 1

    def interrupt(self) -> None:
        """Called from another thread: stop the native calls in flight. What is not ended at its yield point hears its chunk
        again. It is the inner job that is meant where there is one."""
        if self._inner_jobs == 0:
            self._stop_calls()

    def _stop_calls(self) -> None:
        for lane in list(self._lanes):
            lane.stop.set()

    # -- jobs

    def _claim(self) -> None:
        """Give a free lane the next job that waits; at most one a look, as loading a model takes its time."""
        now = time.monotonic()
        busy = sum(lane.work is not None for lane in self._lanes)
        if busy >= self._models.width or now < self._next_claim:
            return
        self._next_claim = now + CLAIM_INTERVAL_S
        for work in self._lead.claim_batch_mates(1):
            try:
                lane = self._free_lane()
            except ModelProblem as error:
                logger.warning("sound files are heard one after the other: %s", error.message)
                self._models.width = len(self._lanes)
                work.put_back()
                return
            if work.job.priority >= Priority.INTERACTIVE:
                self._run_at_once(lane, work)
            else:
                self._start(lane, work)

    def _free_lane(self) -> Lane:
        lane = next((lane for lane in self._lanes if lane.work is None), None)
        if lane is None:
            lane = Lane(self._models.model(len(self._lanes)), self._calls)
            self._lanes.append(lane)
        return lane

    def _run_at_once(self, lane: Lane, work: Work) -> None:
        """A client waits for a job that was claimed with the others: it goes first, in this thread."""
        lane.stop.clear()
        self._resting = lane
        try:
            self._rest()
            work.finish(self._transcribe(work, lane.model, lane.stop))
        except Exception as error:
            work.fail(error)
        finally:
            self._resting = None

    def _start(self, lane: Lane, work: Work) -> None:
        lane.start(work, self._transcribe)

    # -- who computes

    def _let_compute(self) -> None:
        """Answer yield points, the first that came first, as far as there are threads: with more of them than cores, native
        calls beside each other wait for one another without end."""
        share = max(1, self._threads // max(1, sum(lane.work is not None for lane in self._lanes)))
        while self._resting_calls:
            taken = sum(lane.threads for lane in self._lanes)
            if taken and taken + share > self._threads:
                return
            call = self._resting_calls.pop(0)
            call.lane.threads = share
            call.answer.set_result(share)

    def _rest(self) -> None:
        """Break off the native calls in flight, and wait until no lane computes."""
        deadline = time.monotonic() + REST_TIMEOUT_S
        while any(lane.threads for lane in self._lanes) and (left := deadline - time.monotonic()) > 0:
            for lane in self._lanes:
                if lane.threads:
                    lane.stop.set()
            with contextlib.suppress(queue.Empty):
                message = self._calls.get(timeout=left)
                if isinstance(message, LaneEnd) or message.is_yield:
                    message.lane.threads = 0
                    self._put_off.append(message)
                else:
                    message.answer_now()

    # -- what lanes ask

    def _end(self, end: LaneEnd) -> None:
        work, end.lane.work, end.lane.threads = end.lane.work, None, 0
        self._next_claim = 0.0
        assert work is not None
        if isinstance(end.result, TranscriptionResult):
            self._lead.finish_mates([(work, end.result)])
        elif isinstance(end.result, Exception):
            work.fail(end.result)
        else:
            raise end.result

    def _answer(self, call: LaneCall) -> None:
        if not call.is_yield:
            call.answer_now()
            return
        call.lane.threads = 0
        self._resting = call.lane
        try:
            threads = call.run()
        finally:
            self._resting = None
        if threads is not None:
            self._threads = threads
            self._resting_calls.append(call)

    def _end_lanes(self) -> None:
        """The service stops: no lane is left behind, and what it was at goes back."""
        for call in self._resting_calls:
            call.answer.set_exception(Stopping())
        while any(lane.work is not None for lane in self._lanes):
            self._stop_calls()
            message = self._put_off.popleft() if self._put_off else self._calls.get()
            if isinstance(message, LaneEnd):
                message.lane.work = None
            else:
                message.answer.set_exception(Stopping())
