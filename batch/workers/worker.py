"""The worker's loop: a huey consumer with one thread that takes jobs, and the yield point between units of work."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from huey.consumer import Consumer
from msgspec import Raw, Struct
from msgspec.structs import replace

from batch import fail_points
from batch.cpu_sharing import CoreTable
from batch.errors import BatchError, Cancelled, DiskFull, ModelProblem
from batch.payloads.events import JobEvent, Progress, ProgressUnit, Started
from batch.payloads.job_payload import Payload, Result
from batch.payloads.json_text import decode, encode
from batch.queue.channel import EventStream, WakeListener
from batch.queue.frames import ABSENT, Answered, Beat, Broken, End, Hello, Loading, Ready
from batch.queue.huey_storage import JobHuey
from batch.queue.jobs import Job, JobProgress, Kind, Priority, State, UnreadableJob
from batch.queue.spool import Spool
from batch.queue.store import Store
from batch.settings import Settings
from batch.workers.engine import Engine, Work

T = TypeVar("T")
C = TypeVar("C", bound=Struct)
logger = logging.getLogger("batch.worker")

LOOK = 0.25
"""Seconds between two looks into the database while a job runs, for wake-ups that were lost."""
TELL = 0.25
"""Seconds between two progress events."""
WRITE = 1.0
"""Seconds between two writes of progress into the row."""
DISK = 1.0
"""Seconds between two tries of a write that must not be lost, while the disk is full."""
_STUCK = 2.0
"""Seconds beyond the grace time after which a job that reaches no unit is put back over its engine's head."""
_INLINE = 256 << 10
"""Results up to this many bytes travel in the end event, which saves the waiting side a read."""


class Stopping(BaseException):
    """The service stops and the grace time is over: the job goes back. No engine may catch it as an Exception."""


class JobConsumer(Consumer):  # type: ignore[misc]
    """huey's consumer without its signal handlers (the supervisor speaks to us) and without a ticking scheduler."""

    def _set_signal_handlers(self) -> None:
        pass


class Worker:
    """One model, one queue, one thread of work. `run` returns when the service stops."""

    def __init__(self, kind: Kind, settings: Settings, engine: Engine) -> None:
        self.kind = kind
        self.settings = settings
        self.engine = engine
        self.store = Store(settings.database)
        self.spool = Spool(settings.state_dir / "spool")
        self.events = EventStream(settings.state_dir)
        self.cores = CoreTable()
        self.huey = JobHuey(kind, self.store, self._run)
        self.storage = self.huey.storage
        self.stack: list[RunningWork] = []
        """Jobs under way, the innermost last: a more urgent one runs inside the yield point of the one before."""
        self.attention = False
        """Set from other threads: something was queued, cancelled or stopped, so look at the next unit."""
        self.deadline: float | None = None
        """time.monotonic() after which a running job is put back; None while the service runs."""
        self.loaded = threading.Event()
        self.consumer: JobConsumer | None = None
        limit = getattr(settings, kind.value).threads
        self.most_threads: int = limit or 1 << 16

    # -- life

    def run(self) -> None:
        self.events.send(Hello(kind=self.kind, pid=os.getpid()))
        for job, state in self.persist(lambda: self.store.recover(self.kind, self.settings.queue.attempts)):
            logger.warning("job %s was left by a worker that died: %s", job, state)
            if state.ended:
                self.events.send(End(job=job, state=state))
        WakeListener(self.settings.state_dir, self.kind, self._woken)
        threading.Thread(target=self._answer, name="questions", daemon=True).start()
        # The model is loaded, used and freed in the consumer's thread, so the libraries see one thread only.
        self.huey.on_startup("load")(self._load)
        self.huey.on_shutdown("close")(self.engine.close)
        consumer = JobConsumer(
            self.huey, workers=1, worker_type="thread", periodic=False, scheduler_interval=60, check_worker_health=False
        )
        self.consumer = consumer
        if self.storage.stopping.is_set():  # while it was not there to be told
            consumer.stop_flag.set()
        consumer.start()
        for _, thread in consumer.worker_threads:
            while thread.is_alive():
                thread.join(1.0)
                if self.deadline is not None and time.monotonic() > self.deadline + _STUCK:
                    self.abandon()  # rather than be killed with the job in hand, which would count as an attempt
                    return
        self.cores.close()
        self.store.close()

    def _load(self) -> None:
        last = 0.0

        def report(progress: float) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last > 0.1 or progress >= 1.0:
                last = now
                self.events.send(Loading(progress=progress))

        try:
            info = self.engine.load(report)
        except BatchError as error:
            self._broken(error)
        except Exception as error:
            logger.exception("the %s model could not be loaded", self.kind)
            self._broken(ModelProblem(f"The {self.kind} model could not be loaded: {error}."))
        else:
            self.loaded.set()
            self.events.send(Ready(info=info))

    def _broken(self, error: BatchError) -> None:
        self.events.send(Broken(message=error.message))
        self._take_no_more()

    def stop(self, grace: float) -> None:
        """Take no more; a running job has `grace` seconds to end before it is put back."""
        self.deadline = time.monotonic() + grace
        self._take_no_more()
        self.attention = True
        if self.stack:
            timer = threading.Timer(grace, self.engine.interrupt)
            timer.daemon = True
            timer.start()

    def abandon(self) -> None:
        """This process ends with a job under way: it waits for the next start, and is not blamed for it."""
        self._take_no_more()
        for work in list(self.stack):
            work.put_back()

    def _take_no_more(self) -> None:
        self.storage.stopping.set()
        if self.consumer is not None:
            self.consumer.stop_flag.set()
        self.storage.woken.set()

    def persist(self, write: Callable[[], T]) -> T:
        """Do a write that must not be lost, however long the disk is full; Stopping when the service ends first."""
        told = False
        while True:
            try:
                return write()
            except DiskFull as error:
                if not told:
                    logger.error("The %s worker waits: %s", self.kind, error.message)
                told = True
                if self.deadline is not None and time.monotonic() >= self.deadline:
                    raise Stopping() from error
                self.events.send(Beat())
                time.sleep(DISK)

    # -- from other threads

    def _woken(self) -> None:
        self.attention = True
        self.storage.woken.set()
        stack = self.stack
        if stack and self.store.cancelled(stack[-1].job.id):
            # Not only noted: a long native call is stopped in its middle.
            self.engine.interrupt()

    def _answer(self) -> None:
        """Answer questions, one at a time, beside the running job."""
        for ask in self.events.questions():
            try:
                self.loaded.wait()
                answered = Answered(number=ask.number, answer=Raw(encode(self.engine.ask(ask.question))))
            except BatchError as error:
                answered = Answered(number=ask.number, error=_record(error))
            except Exception as error:
                logger.exception("question %s failed", type(ask.question).__name__)
                answered = Answered(
                    number=ask.number, error=_record(BatchError(f"The {self.kind} worker could not answer: {error}."))
                )
            self.events.send(answered)
        if self.deadline is None:
            # Nobody would hear of what we do; the next worker will be heard.
            logger.error("the supervisor hung up: ending")
            self.abandon()
            os._exit(1)

    # -- one job

    def _run(self, job_id: str) -> None:
        """huey's task: `storage.taken` is the job just claimed."""
        job = self.storage.taken
        assert job is not None and job.id == job_id
        work = RunningWork(self, job)
        self.stack.append(work)
        self._weigh()
        self.tell_started(job)
        fail_points.reach("claimed")
        try:
            try:
                if job.cancel:
                    raise Cancelled()
                outcome: Result | Exception = self.engine.run(work)
            except Exception as error:
                outcome = error
            finally:
                self.stack.pop()
            fail_points.reach("computed")
            if isinstance(outcome, Exception):
                work.fail(outcome)
            else:
                work.finish(outcome)
        except Stopping:
            work.put_back()
            if self.stack:
                raise
        finally:
            self._weigh()

    def tell_started(self, job: Job) -> None:
        """Nobody needs to hear of a short piece of work at once: that news would only take a core from it."""
        tell = self.events.hold if job.waited and self.engine.brief else self.events.send
        tell(Started(job=job.id))

    def _weigh(self) -> None:
        """Tell the other workers how much this one computes: a waiting caller's work weighs twice bulk work."""
        self.cores.busy(0.0 if not self.stack else 2.0 if self.stack[-1].job.priority >= Priority.CALLER else 1.0)

    def threads(self) -> int:
        return min(self.cores.threads(), self.most_threads)


class RunningWork:
    """One job in the engine's hands; what workers/engine.py calls Work."""

    def __init__(self, worker: Worker, job: Job) -> None:
        self._worker = worker
        self.job = job
        now = time.monotonic()
        self._begun = now
        self._next_look = now + LOOK
        self._next_tell = now + TELL
        self._next_write = now + WRITE
        self._threads = worker.threads()
        self._start: float | None = None  # progress that an earlier attempt had made
        self._mates: dict[str, RunningWork] = {}
        self._speaks = False
        self._ended = False

    # -- the yield point

    def unit(self, done: float | None = None, total: float | None = None, name: ProgressUnit = "tokens") -> int:
        if self._start is None:
            self._start = done
        now = time.monotonic()
        self._worker.events.hurry(now)
        if self._worker.attention or now >= self._next_look:
            self._look(now, done, total, name)
        return self._threads

    def _look(self, now: float, done: float | None, total: float | None, name: ProgressUnit) -> None:
        worker = self._worker
        worker.attention = False
        self._next_look = now + LOOK
        if worker.deadline is not None and now >= worker.deadline:
            raise Stopping()
        if worker.deadline is not None:
            worker.attention = True  # look again at every unit: the deadline is near
        if worker.store.cancelled(self.job.id):
            raise Cancelled()
        if worker.deadline is None:
            while self.job.priority < Priority.CALLER and worker.huey.run_more_urgent(self.job.priority):
                worker.attention = False
                if worker.store.cancelled(self.job.id):
                    raise Cancelled()
        if now >= self._next_tell:
            self._next_tell = now + TELL
            if done is None:
                worker.events.send(Beat())
            else:
                worker.events.send(Progress(job=self.job.id, done=done, total=total, unit=name))
                if now >= self._next_write:
                    self._next_write = now + WRITE
                    with contextlib.suppress(DiskFull):  # nobody loses anything
                        worker.store.progress(self.job.id, JobProgress(done, total, name, self._start))
        worker._weigh()
        self._threads = worker.threads()

    # -- what an engine may use

    @property
    def payload(self) -> Payload:
        return self.job.payload

    @cached_property
    def watched(self) -> bool:
        # Where a client waits for the result alone, nobody reads deltas.
        return self.job.waited and getattr(self.payload, "stream", None) is not False

    def emit(self, event: JobEvent) -> None:
        if self.watched:
            # What a caller waits for most comes at once, what follows it a few at a time.
            tell = self._worker.events.post if self._speaks else self._worker.events.send
            self._speaks = True
            tell(replace(event, job=self.job.id))

    def blob(self, sha256: str) -> Path:
        path = self._worker.spool.path(sha256)
        if not path.exists():
            raise BatchError("The spool no longer holds this job's payload: send the file or request again.")
        return path

    def keep(self, data: bytes) -> str:
        def keep() -> str:
            sha256 = self._worker.spool.keep(data, durable=not self.job.waited)
            self._worker.store.refer(self.job.id, sha256)
            return sha256

        # A caller is told that the disk is full; a file in the inbox has all the time in the world.
        return keep() if self.job.waited else self._worker.persist(keep)

    def checkpoint(self, step: int, data: Struct) -> None:
        try:
            self._worker.store.checkpoint(self.job.id, step, encode(data).decode())
        except DiskFull as error:
            logger.warning("job %s goes on without writing down how far it is: %s", self.job.id, error.message)

    def checkpoints(self, type: type[C]) -> list[C]:
        # Also on what counts as the first attempt: a job that was put back at shutdown has no attempt counted.
        return [decode(text, type) for text in self._worker.store.checkpoints(self.job.id)]

    def mates(self, limit: int) -> list[Work]:
        worker = self._worker
        # What took a worker down before runs alone, so that its mates are not failed together with it.
        if worker.deadline is not None or self.job.attempts != 1:
            return []
        try:
            jobs = worker.store.take_mates(self.job, limit)
        except DiskFull:
            return []
        taken: list[Work] = []
        for job in jobs:
            self._mates[job.id] = mate = RunningWork(worker, job)
            worker.tell_started(job)
            try:
                mate.payload  # noqa: B018
            except UnreadableJob as error:
                mate.fail(error)
            else:
                taken.append(mate)
        return taken

    # -- the end

    def finish(self, result: Result) -> None:
        text = encode(result)
        inline = Raw(text) if len(text) <= _INLINE else ABSENT
        self._end(State.DONE, seconds=time.monotonic() - self._begun, inline=inline, result=text.decode())

    def fail(self, error: Exception) -> None:
        if isinstance(error, Cancelled):
            self._end(State.CANCELLED)
            return
        if not isinstance(error, BatchError):
            logger.error("job %s failed", self.job.id, exc_info=error)
            error = BatchError(f"The {self._worker.kind} worker could not do this job: {type(error).__name__}: {error}.")
        self._end(State.FAILED, error=error)

    def put_back(self) -> None:
        """The service stops: this job and the mates taken with it wait for the next start."""
        for work in (self, *self._mates.values()):
            work._ended = True
            try:
                self._worker.store.put_back(work.job.id, count=False, durable=not work.job.waited)
            except DiskFull as error:  # its claim stays, which the next start finds
                logger.error("job %s could not be put back: %s", work.job.id, error.message)

    def _end(
        self,
        state: State,
        *,
        seconds: float | None = None,
        inline: Raw = ABSENT,
        result: str | None = None,
        error: BatchError | None = None,
    ) -> None:
        worker = self._worker
        stack = worker.stack
        told = End(
            job=self.job.id,
            state=state,
            resumes=stack[-1].job.id if stack else None,
            seconds=seconds,
            result=inline,
            error=ABSENT if error is None else _record(error),
        )

        def write() -> bool:
            # Results that nobody waits for on a socket must survive a power cut once they are called done.
            record = None if error is None else error.record()
            return worker.store.end(self.job.id, state, result=result, error=record, durable=not self.job.waited)

        try:
            ended = write()
        except DiskFull:
            if answered := self.job.waited and (told.result is not ABSENT or told.error is not ABSENT):
                worker.events.send(told)  # a caller can have its answer, row or no row
            ended = worker.persist(write) and not answered
        fail_points.reach("ended")
        if ended:
            worker.events.send(told)
        self._ended = True
        for mate in self._mates.values():
            # An engine that ended without ending a mate has lost it: the mate goes back, its attempt counted.
            if not mate._ended:
                worker.persist(lambda mate=mate: worker.store.put_back(mate.job.id, count=True))  # type: ignore[misc]


def _record(error: BatchError) -> Raw:
    return Raw(encode(error.record()))
