"""Bulk jobs are planned, and their pictures encoded, in a thread beside the jobs that are computed together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from batch.cpu_sharing.core_table import usable
from batch.payloads.chat import ChatPayload
from batch.workers.chat.bulk.bulk_engine import JobPlanner
from batch.workers.chat.images.picture_reader import PictureReader, picture_hashes
from batch.workers.chat.images.vision import Vision
from batch.workers.chat.task_params import TaskParams
from batch.workers.engine import Work
from batch.workers.llama.library import clear_errors

STUCK_S = 60.0
"""Seconds after which a step of the thread, which takes a few at most, counts as one without end."""


def has_cores_to_prepare(threads: int) -> bool:
    """Whether a picture can be encoded with so many threads while as many decode, on a machine without a GPU."""
    return usable() >= 2 * threads


class Abandoned(BaseException):
    """Nobody wants what the thread is preparing."""


class Preparation:
    """One job's plan and the embeddings of its pictures, under way in the thread."""

    def __init__(self, priority: int, prepare: Callable[[Callable[[], None]], TaskParams]) -> None:
        """`prepare` is called with what it has to call between its steps."""
        self.priority = priority
        self._prepare = prepare
        self._task: TaskParams | None = None
        self._error: BaseException | None = None
        self.is_done = False
        self.is_cancelled = False

    def compute(self, pause: Callable[[], None]) -> None:
        """For the thread: raises nothing, `result` does."""
        try:
            self._task = self._prepare(pause)
        except BaseException as error:  # whoever wanted the job gets it
            self._error = error
        self.is_done = True

    def result(self) -> TaskParams:
        """The plan, once it is done; its pictures are encoded. Raises what ended the preparation."""
        if self._error is not None:
            raise self._error
        assert self._task is not None
        return self._task


class PreparationThread:
    """Prepares one job at a time, the more urgent first. It starts with the first job and ends with `close`; a client's job
    holds it up. All methods are for the engine's thread."""

    def __init__(self, planner: JobPlanner, vision: Vision | None, pictures: PictureReader) -> None:
        """`pictures` is used by nobody else until `close`."""
        self._planner = planner
        self._vision = vision
        self._pictures = pictures
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._waiting: list[Preparation] = []
        self._pauses = 0
        self._is_closing = False
        self._is_held_up = False
        """Whether the thread waits between two steps of a job until it may go on."""
        self._last_step = 0.0
        """time.monotonic() of the thread's last sign of life while it has something to do."""

    def submit(self, work: Work) -> Preparation | None:
        """Begin with a job, None where it shows no pictures. Raises BatchError where the spool has lost one."""
        hashes = picture_hashes(work.payload)
        if not hashes:
            return None
        paths = {sha256: work.spool_path(sha256) for sha256 in hashes}
        return self._begin(Preparation(work.job.priority, partial(self._prepare, work, paths)))

    def submit_plan(self, work: Work) -> Preparation | None:
        """Begin with a chat that shows no pictures: its prompt alone is prepared. None for other jobs."""
        if not isinstance(work.payload, ChatPayload):
            return None
        return self._begin(Preparation(work.job.priority, partial(self._prepare, work, {})))

    def _begin(self, preparation: Preparation) -> Preparation:
        with self._changed:
            self._waiting.append(preparation)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="preparation", daemon=True)
                self._thread.start()
        return preparation

    def cancel(self, preparation: Preparation) -> None:
        """Nobody wants it any more: it is not begun, or left at the next node of the encoder's graph."""
        with self._changed:
            preparation.is_cancelled = True
            if preparation in self._waiting:
                self._waiting.remove(preparation)
            self._changed.notify_all()

    def wait(self, preparations: Sequence[Preparation], timeout_s: float) -> None:
        """Return when one of them is done, or the time is over; where the thread is stuck in native code, never: then the
        service finds the whole worker hanging, and replaces it."""
        with self._changed:
            is_under_way = bool(self._last_step) and not self._is_held_up
            is_stuck = is_under_way and time.monotonic() - self._last_step > STUCK_S
            self._changed.wait_for(lambda: any(one.is_done for one in preparations), None if is_stuck else timeout_s)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While this lasts, nothing is begun; what is under way stops between two nodes of the encoder's graph, on a GPU behind
        its picture."""
        with self._changed:
            self._pauses += 1
        try:
            yield
        finally:
            with self._changed:
                self._pauses -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Leave everything, and return when the thread has ended."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    # -- in the thread

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closing or (self._waiting and not self._pauses))
                if self._is_closing:
                    return
                preparation = self._take()
            assert preparation is not None
            self._compute(preparation)

    def _take(self, above: int = -1) -> Preparation | None:
        """The first of the highest priority, if that is above the one named. With the lock held."""
        preparation = max(self._waiting, key=lambda one: one.priority, default=None)
        if preparation is None or preparation.priority <= above:
            return None
        self._waiting.remove(preparation)
        return preparation

    def _compute(self, preparation: Preparation) -> None:
        self._last_step = time.monotonic()
        preparation.compute(partial(self._pause, preparation))
        with self._changed:
            self._last_step = 0.0
            self._changed.notify_all()

    def _pause(self, preparation: Preparation) -> None:
        """Between two steps: wait while a client's job runs, and let those that are more urgent go first. Raises Abandoned."""
        while True:
            with self._changed:
                self._is_held_up = True
                self._changed.wait_for(lambda: self._is_closing or preparation.is_cancelled or not self._pauses)
                self._is_held_up = False
                if self._is_closing or preparation.is_cancelled:
                    raise Abandoned
                urgent = self._take(above=preparation.priority)
                self._last_step = time.monotonic()
            if urgent is None:
                return
            self._compute(urgent)

    def _prepare(self, work: Work, paths: Mapping[str, Path], pause: Callable[[], None]) -> TaskParams:
        pause()
        task = self._planner.plan_job(work, lambda sha256: self._pictures.decode(paths[sha256], pause))
        for _, chunk in task.prompt.chunks:
            if not chunk.is_encoded:
                assert self._vision is not None
                pause()
                clear_errors()
                self._vision.encode_chunk(chunk, pause)
        return task
