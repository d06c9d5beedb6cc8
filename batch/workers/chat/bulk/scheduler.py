"""Continuous batching of bulk jobs: several sequences in one decode; when one ends, the next job takes its place."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import UnionType

from batch.queue.jobs import Priority
from batch.workers.chat.bulk.answered_jobs import AnsweredJobs
from batch.workers.chat.bulk.bulk_engine import BulkEngine
from batch.workers.chat.bulk.claimed_jobs import ClaimedJobs
from batch.workers.chat.bulk.decode_batch import DecodeBatch
from batch.workers.chat.bulk.job import BulkJob
from batch.workers.chat.bulk.large_jobs import LargeJobs
from batch.workers.chat.bulk.picture_batch import PictureBatch
from batch.workers.chat.bulk.preparation import PreparationThread
from batch.workers.chat.bulk.speed import MIN_STEP_ROWS
from batch.workers.chat.bulk.token_finder import TokenFinder
from batch.workers.chat.generation import Resources
from batch.workers.chat.images.picture_reader import PictureReader
from batch.workers.chat.step_runner import StepRunner
from batch.workers.chat.steps import LOST, DecodeImage, EncodeImage, PromptSlice, Step
from batch.workers.chat.task_params import TaskParams
from batch.workers.engine import Work
from batch.workers.llama.context import ABORTED, DECODED, NO_ROOM
from batch.workers.llama.library import clear_errors

UNPARK_INTERVAL_S = 0.25
"""Between two tries to bring a job back that had to make room."""


class BulkScheduler:
    """Computes bulk jobs together, at most `width` at a time. One `run` may go on inside another's yield point."""

    def __init__(
        self, resources: Resources, runner: StepRunner, engine: BulkEngine, width: int, pictures: PictureReader
    ) -> None:
        """`pictures` is used by nobody else until `close`."""
        self.resources = resources
        self.runner = runner
        self.engine = engine
        self.width = width
        self.cache = resources.cache
        self.preparations = PreparationThread(engine, resources.vision, pictures)
        self.finder = TokenFinder(resources.context)
        self._runs: list[BulkRun] = []
        """Under way, the innermost last."""

    def run(self, lead: Work) -> None:
        """Compute a job and all of its kind that wait, each ended as soon as its result is there."""
        for outer in self._runs:
            outer.answered.end()  # this one may take hours
        run = BulkRun(self, lead)
        self._runs.append(run)
        try:
            run.compute()
        finally:
            self._runs.remove(run)
            run.close()

    @contextmanager
    def held_up(self) -> Iterator[None]:
        """While this lasts a client's job is computed: nothing is prepared, and ends that are due are written down first."""
        for run in self._runs:
            run.answered.end_due()
        with self.preparations.paused():
            yield

    def close(self) -> None:
        """End the threads beside it. Harmless when called again."""
        self.preparations.close()
        self.finder.close()


class BulkRun:
    """The jobs that are computed together."""

    def __init__(self, scheduler: BulkScheduler, lead: Work) -> None:
        self._resources = resources = scheduler.resources
        self._context = resources.context
        self._cache = resources.cache
        self._runner = scheduler.runner
        self._engine = scheduler.engine
        self._width = scheduler.width
        self._lead = lead
        self._held_up = scheduler.held_up
        self._finder = scheduler.finder
        self._claimed = ClaimedJobs(self._engine, scheduler.preparations, resources, self._width)
        self._jobs: list[BulkJob] = []
        """In the order in which they were claimed."""
        self._large = LargeJobs(lead)
        self.answered = AnsweredJobs(lead)
        self._next_unpark = 0.0

    def compute(self) -> None:
        """Go on until no job is left that could be claimed."""
        self._add(self._lead)
        while True:
            self._yield()
            if not self._jobs:
                self.answered.end()  # no others are left to be ended with
            self._claim()
            if not self._jobs:
                if self._claimed.wait():
                    continue
                if not self._large:
                    return
                self._run_alone(*self._large.take())
                continue
            self._start_jobs()
            ready = self._ready_jobs()
            # A picture before all else, so that its job can join the others.
            if self._compute_pictures(ready):
                continue
            mixed = self._resources.mixed_prompt_tokens
            # Prompts by themselves, so that their numbers do not depend on what others generate meanwhile; and all of them
            # before the next token, as a step of many takes little longer than one of few.
            if not mixed and self._compute_slices(ready):
                continue
            able = self._computable(ready)
            self._decode(DecodeBatch.of_both(able, mixed, self._context.n_batch) if mixed else DecodeBatch.of_tokens(able))
            self._large.add_outgrown(self._jobs)

    def close(self) -> None:
        """End what is done, give all sequences back, and leave what is being prepared."""
        try:
            self.answered.end()
        finally:
            for job in self._jobs:
                job.close()
            self._large.close()
            self._claimed.close()

    # -- jobs come and go

    def _claim(self) -> None:
        unstarted = sum(not job.is_started for job in self._jobs)
        places = min(self._width + self._claimed.ahead - len(self._jobs), self._cache.free_sequences - unstarted)
        free = places - len(self._claimed)
        is_parked = any(job.is_started and job.slot.parked is not None for job in self._jobs)
        if free < 1 or is_parked or self._large.come_first(self._width):
            return
        if not self._claimed.is_look_due(self._lead.wake_ups, is_idle=not self._jobs and not self._claimed):
            return
        for work in self._claimed.expect(self._lead.claim_batch_mates(self._large.most_to_claim(free))):
            self._add(work)

    def _add(self, work: Work) -> None:
        def add() -> None:
            if work.job.priority >= Priority.INTERACTIVE:
                # Claimed with the others, but a client waits for it: it goes first and alone, as at a yield point.
                with self._held_up():
                    work.finish(self._engine.run_alone(work, self._engine.plan_job(work)))
                return
            ahead = self._claimed.ahead
            self._claimed.add(work)
            if self._claimed.ahead > ahead:
                self._claimed.look_soon()  # those ahead are claimed at once
            self._join()

        self._attempt(work, add)

    def _join(self) -> None:
        """Plan the jobs that have been claimed and have nothing to wait for, as far as there are places."""
        while len(self._jobs) < self._width and (claimed := self._claimed.take()) is not None:
            self._attempt(claimed[0], partial(self._plan, *claimed))

    def _plan(self, work: Work, plan: Callable[[], TaskParams]) -> None:
        task = plan()
        self._large.is_behind_one = not self._engine.fits_bulk(task)
        if self._large.is_behind_one:
            self._large.add(work, task)
        else:
            self._jobs.append(BulkJob(self._resources, work, task))

    def _run_alone(self, work: Work, task: TaskParams | BulkJob) -> None:
        pass_waiting = partial(self._pass_waiting, work.job.priority)
        self._attempt(work, lambda: work.finish(self._engine.run_alone(work, task, pass_waiting)))

    def _attempt(self, work: Work, action: Callable[[], object]) -> bool:
        """Do something for one job; what it raises ends that job alone. Returns whether the job goes on."""
        try:
            action()
        except Exception as error:
            self._drop(work)
            work.fail(error)
            return False
        return True

    def _drop(self, work: Work) -> None:
        self._claimed.drop(work)
        self._large.drop(work)
        for job in [job for job in self._jobs if job.work is work]:
            self._jobs.remove(job)
            job.close()
            for other in [other for other in self._jobs if other.donor is job]:
                other.donor = None

    def _advance(self, job: BulkJob, row: int) -> None:
        if self._attempt(job.work, partial(job.advance, row)) and job.is_done:
            self.answered.add(job.work, self._engine.make_result(job.work, job.task, job.results))
            self._drop(job.work)
            self._claimed.look_soon()
            self._next_unpark = 0.0

    def _yield(self) -> None:
        """Every job's yield point: cancellations, more urgent jobs, progress."""
        for job in list(self._jobs):
            self._attempt(job.work, partial(self._yield_job, job))
        self._pass_waiting()
        self._join()

    def _pass_waiting(self, least: int = Priority.INBOX) -> None:
        """The yield points of those that wait, `least` urgent: inside less urgent ones others would pass the one at work."""
        for work in [*self._claimed.works, *self._large.works]:
            if work.job.priority >= least:
                self._attempt(work, work.yield_point)

    def _yield_job(self, job: BulkJob) -> None:
        self.answered.end_due()
        self._context.set_threads(job.work.yield_point(*job.progress))

    def _start_jobs(self) -> None:
        # Prompts of like lengths in neighbouring sequences: where each has its own cells, those are computed at once.
        for job in sorted((job for job in self._jobs if not job.is_started), key=lambda job: len(job.task.prompt)):
            job.choose_donor(self._jobs)
            if job.donor is None:
                self._attempt(job.work, job.start)

    # -- steps

    def _ready_jobs(self) -> list[BulkJob]:
        """The jobs whose KV is in place; those that were parked come back as far as there is room."""
        started = [job for job in self._jobs if job.is_started]
        now = time.monotonic()
        if now >= self._next_unpark:
            for job in started:
                if not self._cache.try_unpark(job.slot):
                    self._next_unpark = now + UNPARK_INTERVAL_S
                    break
        ready = [job for job in started if job.slot.parked is None]
        if not ready and started:
            # Nobody else will make room for it.
            self._attempt(started[0].work, lambda: self._cache.unpark(started[0].slot))
            ready = [job for job in started[:1] if job in self._jobs]
        return ready

    def _can_compute(self, job: BulkJob) -> bool:
        """Whether a job that was ready still is: another's step may have ended it, or moved its KV out."""
        return job in self._jobs and job.is_started and job.slot.parked is None

    def _computable(self, ready: list[BulkJob]) -> list[BulkJob]:
        return [job for job in ready if self._can_compute(job)]

    def _compute_first(self, ready: list[BulkJob], kind: type[Step] | UnionType) -> bool:
        """The step of the first job whose step is of this kind, by itself; returns whether there was one."""
        job = next((job for job in ready if self._can_compute(job) and isinstance(job.step, kind)), None)
        if job is None:
            return False
        self._attempt(job.work, partial(self._compute_alone, job))
        return True

    def _compute_pictures(self, ready: list[BulkJob]) -> bool:
        """Encode a picture, or put slices of encoded ones into the KV, those of several jobs in one decode where they may share
        one; returns whether there were some."""
        room = self._resources.joint_picture_tokens
        if not room:
            return self._compute_first(ready, EncodeImage | DecodeImage)
        if self._compute_first(ready, EncodeImage):
            return True
        batch = PictureBatch(self._computable(ready), max(room, MIN_STEP_ROWS))
        if len(batch.jobs) < 2:
            return self._compute_first(batch.jobs or ready, DecodeImage)
        clear_errors()
        if (status := self._context.decode_embeddings(batch.parts)) == DECODED:
            for job in batch.jobs:
                self._advance(job, -1)
            return True
        if status == ABORTED:
            self._context.clear_abort()
        self._compute_each(batch.jobs)
        return True

    def _compute_slices(self, ready: list[BulkJob]) -> bool:
        """Slices of prompts, of several jobs where their numbers are the same then, or depend on their company anyway as on a
        GPU; returns whether there were some."""
        most, multiple = self._resources.joint_prompt_tokens, self._resources.joint_multiple
        of_slices = DecodeBatch.of_equal_slices if self._context.has_own_kv else DecodeBatch.of_slices
        if self._resources.joint_picture_tokens:
            of_slices = DecodeBatch.of_any_slices
        batch = of_slices(self._computable(ready), most, multiple)
        if len(batch) < 2:
            return self._compute_first(ready, PromptSlice)
        self._decode(batch)
        return True

    def _decode(self, batch: DecodeBatch) -> None:
        if not len(batch):
            return
        if self._context.has_own_kv:
            self._cache.close_ranks([job.slot for job in batch.jobs])
            batch = batch.by_sequence()
        jobs, parts, last_rows = batch.jobs, batch.parts, batch.last_rows
        clear_errors()
        status = self._context.decode_parts(parts)
        if status == DECODED:
            if self._resources.decodes_ahead:
                self._work_meanwhile(jobs)
                draws = [(job, row) for job, row, part in zip(jobs, last_rows, parts, strict=True) if part[-1]]
                self._finder.find([(job, row) for job, row in draws if job in self._jobs])
            for job, row in zip(jobs, last_rows, strict=True):
                if job in self._jobs:  # its text may have been what it fails for
                    self._advance(job, row)
        elif status == ABORTED:
            self._context.clear_abort()
            for job in jobs:
                if self._runner.undo(job.slot):
                    self._advance(job, LOST)
        elif status == NO_ROOM and len(jobs) > 1 and not self._context.has_own_kv:
            if not self._cache.move_idle_out(jobs[0].slot):
                # The last that came waits until another one has ended.
                self._cache.park(jobs[-1].slot)
                self._next_unpark = time.monotonic() + UNPARK_INTERVAL_S
        else:
            self._compute_each(jobs)

    def _compute_each(self, jobs: Sequence[BulkJob]) -> None:
        """One of them is at fault, or there is no room for one: each is computed, and blamed, by itself."""
        lost = [job for job in jobs if self._runner.undo(job.slot)]
        for job in lost:
            self._advance(job, LOST)
        self._yield()
        for job in jobs:
            if job not in lost and self._can_compute(job):
                self._attempt(job.work, partial(self._compute_alone, job))

    def _work_meanwhile(self, jobs: Sequence[BulkJob]) -> None:
        """What there is to do beside a decode that the GPU goes on with: all but what decodes in this context too."""
        for job in jobs:
            self._attempt(job.work, job.make_text)
        self.answered.end()
        self._claim()

    def _compute_alone(self, job: BulkJob) -> None:
        """One job's step by itself, with the job's own yield point where it is aborted."""
        assert job.step is not None
        self._advance(job, self._runner.compute(job.step, job.slot, partial(self._yield_job, job)))
