"""The worker's loop: a huey consumer with one thread that loads a model, takes jobs and runs them."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import threading
import time
from functools import partial
from typing import Literal

from msgspec import Raw

from batch import __version__, fail_points
from batch.errors import BatchError, Cancelled, ModelProblem
from batch.model_kind import kind_of
from batch.payloads.job_payload import Result
from batch.payloads.json_text import encode
from batch.queue.channel import EventStream, WakeListener
from batch.queue.frames import Answered, Broken, End, Handed, Hello, Loading, Ready
from batch.queue.huey_storage import JobHuey
from batch.queue.jobs import MAX_BULK_PRIORITY
from batch.queue.nodes import Node, WorkerSecret
from batch.queue.open_store import open_spool, open_store
from batch.queue.periodic import QuietConsumer
from batch.queue.remote.home_id import home_id
from batch.queue.store import DamagedDatabase, StoreAway
from batch.settings import Settings
from batch.workers.build import build_of
from batch.workers.engine import Engine
from batch.workers.job_context import JobContext
from batch.workers.job_ends import NEXT_REQUEST_S
from batch.workers.lease_keeper import LeaseKeeper
from batch.workers.running_job import RunningJob
from batch.workers.stopping import Stopping

logger = logging.getLogger("batch.worker")

LOADING_EVENT_INTERVAL_S = 0.1
_STUCK_AFTER_GRACE_S = 2.0
"""Beyond the grace time: a job that reaches no yield point is put back over its engine's head."""
_THREAD_CHECK_INTERVAL_S = 1.0


class Worker:
    """One model, one queue, one thread of work. `run` returns when the service stops."""

    def __init__(
        self,
        queue: str,
        settings: Settings,
        engine: Engine,
        *,
        secret: WorkerSecret,
        last_death: str = "",
        takes: Literal["all", "interactive"] = "all",
    ) -> None:
        """`secret`: the worker's, of which its id is a hash, and that of the worker that held the queue's lock before;
        `last_death`: a clause that says what ended that one, if it died. `takes`: "interactive" leaves bulk work to other
        workers of the queue."""
        self.kind = kind = kind_of(queue)
        self._queue = queue
        self._predecessor = secret.predecessor_id
        self._last_death = last_death
        self.loaded = threading.Event()
        self._settings = settings
        self._engine = engine
        self._store = open_store(settings.database_address, home=settings.home, worker=secret)
        self._events = EventStream(settings.state_dir)
        self._context = JobContext(
            queue,
            self._store,
            open_spool(settings.database_address, settings.state_dir / "spool", settings.payloads, worker_secret=secret.own),
            self._events,
            settings.model_of(kind).threads,
            secret.id,
        )
        home = home_id(settings.state_dir) if self._store.is_shared else ""
        node = Node(
            secret.id, kind, queue, version=__version__, home=home, pid=os.getpid(), started_at=time.time(), takes=takes
        )
        self._keeper = LeaseKeeper(self._context, node, self._stop_jobs, attempts=settings.queue.attempts)
        self._huey = self._context.huey = JobHuey(queue, self._store, self._context.worker_id, self._run_job)
        self._storage = self._huey.storage
        self._storage.floor = float(MAX_BULK_PRIORITY) if takes == "interactive" else None
        self._storage.report_waiting = self._context.report_waiting
        self._storage.settle = self._settle
        self._storage.rest_s = lambda: NEXT_REQUEST_S if self._context.ends.are_unwritten else 0.0
        self._storage.before_look = self._context.begin_look
        self._storage.may_take = self._context.may_take = self._keeper.may_take
        self._consumer: QuietConsumer | None = None
        self._abandoning = threading.Lock()

    # -- life

    def run(self) -> None:
        """Load the model and take jobs until `stop` is called or the model cannot be loaded."""
        context, attempts = self._context, self._settings.queue.attempts
        self._events.send(Hello(queue=self._queue, pid=os.getpid(), worker=context.worker_id))
        recover = partial(
            self._store.recover, self._queue, context.worker_id, attempts, self._last_death, predecessor=self._predecessor
        )
        try:
            recovered = context.persist(recover)
        except DamagedDatabase as error:
            self._give_up(error)
            return
        for job, state in recovered:
            logger.warning("job %s was left by a worker that died: %s", job, state)
            if state.ended:
                self._events.send(End(job=job, state=state))
        self._keeper.start()
        WakeListener(self._settings.state_dir, self._queue, self._woken, self._handed)
        threading.Thread(target=self._answer_questions, name="questions", daemon=True).start()
        # The model is loaded, used and freed in the consumer's thread, so the libraries see one thread only.
        self._huey.on_startup("load")(self._load)
        self._huey.on_shutdown("close")(self._engine.close)
        consumer = QuietConsumer(
            self._huey, workers=1, worker_type="thread", periodic=False, scheduler_interval=60, check_worker_health=False
        )
        self._consumer = consumer
        if self._storage.stopping.is_set():  # while it was not there to be told
            consumer.stop_flag.set()
        consumer.start()
        for _, thread in consumer.worker_threads:
            while thread.is_alive():
                thread.join(_THREAD_CHECK_INTERVAL_S)
                deadline = self._context.deadline
                if deadline is not None and time.monotonic() > deadline + _STUCK_AFTER_GRACE_S:
                    self.abandon()  # rather than be killed with the job in hand, which would count as an attempt
                    return
        self._context.ends.write_told()
        self._keeper.end()
        self._context.close()

    def _load(self) -> None:
        last_event = 0.0

        def report(progress: float) -> None:
            nonlocal last_event
            now = time.monotonic()
            if now - last_event > LOADING_EVENT_INTERVAL_S or progress >= 1.0:
                last_event = now
                self._events.send(Loading(progress=progress))

        try:
            info = self._engine.load(report)
        except BatchError as error:
            self._give_up(error)
        except Exception as error:
            logger.exception("the %s model could not be loaded", self.kind)
            self._give_up(ModelProblem(f"The {self.kind} model could not be loaded: {error}."))
        else:
            # What is loaded stays: looking through all of it for garbage would hold up a request by tens of milliseconds.
            gc.collect()
            gc.freeze()
            self.loaded.set()
            if self._store.is_shared:
                self._keeper.held_prefixes = self._engine.follow_prefixes()
            self._events.send(Ready(info=info))
            self._keeper.report(status="ready", model=info.model, build=build_of(info), info=encode(info).decode())

    def _give_up(self, error: BatchError) -> None:
        self._keeper.report(status="failed", error=error.message)
        self._events.send(Broken(message=error.message))
        self._take_no_more()

    def stop(self, grace: float) -> None:
        """Take no more; a running job has `grace` seconds to end before it is put back."""
        self._context.deadline = time.monotonic() + grace
        self._take_no_more()
        self._context.attention = True
        if self._context.running:
            timer = threading.Timer(grace, self._engine.interrupt)
            timer.daemon = True
            timer.start()

    def abandon(self) -> None:
        """This process ends with a job under way: it waits for the next start, and is not blamed for it."""
        self._take_no_more()
        # Several threads notice the service's end; whoever comes second ends the process, so it waits for the first.
        with self._abandoning:
            for running in list(self._context.running):
                running.put_back()
            self._context.ends.leave()
            self._keeper.end()

    def _take_no_more(self) -> None:
        self._storage.stopping.set()
        if self._consumer is not None:
            self._consumer.stop_flag.set()
        self._storage.woken.set()

    def _settle(self) -> bool:
        try:
            return self.loaded.is_set() and self._engine.settle()
        except Exception:
            logger.exception("the %s model did nothing ahead of its next job", self.kind)
            return False

    # -- from other threads

    def _handed(self, handed: Handed) -> None:
        context = self._context
        if handed.worker != context.worker_id:
            return  # its predecessor, whose claims are in the queue again
        context.handed = handed.lease.token, context.wake_ups
        self._storage.hand(handed.lease)
        if context.running:  # a job that it took by itself meanwhile
            context.attention = True

    def _woken(self) -> None:
        self._context.wake_ups += 1
        self._context.attention = True
        self._storage.woken.set()
        running = self._context.running
        with contextlib.suppress(StoreAway):  # it is looked at again at a yield point
            if running and self._store.cancelled(running[-1].job.id):
                # Not only noted: a long native call is stopped in its middle.
                self._engine.interrupt()

    def _stop_jobs(self, jobs: frozenset[str]) -> None:
        """These are cancelled, or another worker's by now."""
        self._context.attention = True
        running = self._context.running
        if running and any(job.job.id in jobs for job in running[-1].unended_jobs()):
            self._engine.interrupt()

    def _answer_questions(self) -> None:
        """Answer questions, one at a time, beside the running job."""
        for ask in self._events.questions():
            try:
                self.loaded.wait()
                answered = Answered(number=ask.number, answer=Raw(encode(self._engine.ask(ask.question))))
            except BatchError as error:
                answered = Answered(number=ask.number, error=Raw(encode(error.record())))
            except Exception as error:
                logger.exception("question %s failed", type(ask.question).__name__)
                failure = BatchError(f"The {self.kind} worker could not answer: {error}.")
                answered = Answered(number=ask.number, error=Raw(encode(failure.record())))
            self._events.send(answered)
        if self._context.deadline is None:
            # Nobody would hear of what we do; the next worker will be heard.
            logger.error("the supervisor hung up: ending")
            self.abandon()
            os._exit(1)

    # -- one job

    def _run_job(self, job_id: str) -> None:
        """huey's task: `storage.lease` is the job just claimed."""
        lease = self._storage.lease
        assert lease is not None and lease.job.id == job_id
        context = self._context
        running = RunningJob(context, lease, report_start_late=self._engine.has_short_steps)
        context.running.append(running)
        context.mark_cores()
        running.report_started()
        fail_points.reach("claimed")
        try:
            try:
                if lease.job.cancel:
                    raise Cancelled()
                result: Result | Exception | None = self._engine.run(running)
            except Exception as error:
                result = error
            finally:
                context.running.pop()
            fail_points.reach("computed")
            if running.is_ended:
                if isinstance(result, Exception):
                    logger.error("the batch of job %s broke off", job_id, exc_info=result)
            elif isinstance(result, Exception):
                running.fail(result)
            elif result is None:
                running.fail(BatchError(f"The {self.kind} worker returned nothing for this job."))
            else:
                running.finish(result)
            running.return_lost_mates()
        except Stopping:
            running.put_back()
            if context.running:
                raise
        finally:
            context.mark_cores()
