"""What the end of a job means for its content: the next step, or the outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from batch.batches.batch_store import BatchStore
from batch.batches.rows import SERVER_ERROR, BatchStatus
from batch.errors import BadRequest, BatchError, NotFound
from batch.folder.daemon_thread import DaemonThread
from batch.folder.ledger.ledger import Ledger
from batch.folder.ledger.rows import Content, ContentState, PageParameters, RequestParameters, StepOutcome, TextParameters
from batch.folder.pipeline import (
    BATCH,
    EMBEDDING,
    embedding_draft,
    page_draft,
    page_of,
    page_step,
    result_of,
    text_of,
)
from batch.folder.result_text import pages_text
from batch.folder.search_entry import search_entry
from batch.media.document.document_process import pdf_page_picture
from batch.queue.jobs import Job, Kind, State
from batch.queue.spool import Spool
from batch.search.index.prepared_content import PreparedContent

MAX_TOLD_PROBLEMS = 5
"""Most wrong lines of a batch that its file's error names."""


class NextSteps:
    """Blocking: call from one thread at a time."""

    def __init__(
        self,
        ledger: Ledger,
        spool: Spool,
        loaded_model: Callable[[Kind], str],
        report_ready: Callable[[], None] = lambda: None,
    ) -> None:
        """`loaded_model` names the model that a worker has loaded, or "" while that is not known. `report_ready` is called,
        from another thread, when a file has its outcome without `follow_jobs` having returned it."""
        self._report_ready = report_ready
        self._ledger = ledger
        self._spool = spool
        self._loaded_model = loaded_model
        # A page takes a program of its own and may take seconds, for which no other file's result must wait.
        self._page_thread = DaemonThread("pages")
        self._pages_under_way: set[tuple[int, int]] = set()
        """(content, page): a page's job may end before its thread is through, and the page after it must not wait for that."""

    def follow_jobs(self, jobs: Iterable[str]) -> int:
        """Act on ended jobs, by id; others than the inbox's are passed over. Returns how many files have their outcome."""
        outcomes = []
        for id in jobs:
            content = self._ledger.content_of_job(id)
            if content and (outcome := self._outcome(content)):
                outcomes.append(outcome)
        return self._ledger.record_steps(outcomes) if outcomes else 0

    def follow_lost_jobs(self, after: int = 0, limit: int = 200) -> tuple[int | None, int]:
        """Look at a slice of the unfinished contents for jobs whose end was not reported, as after a crash.

        Returns the next slice's start, None behind the last, and how many files have their outcome now.
        """
        contents = self._ledger.unfinished_contents(after, limit)
        outcomes = [outcome for content in contents if (outcome := self._outcome(content))]
        ready = self._ledger.record_steps(outcomes) if outcomes else 0
        return (contents[-1].id if len(contents) == limit else None), ready

    def _outcome(self, content: Content) -> StepOutcome | None:
        if content.step == BATCH:
            return self._batch_outcome(content)
        job = self._ledger.store.job(content.job)
        if job is None:
            if content.state is not ContentState.WORKING:
                return None
            removal = BatchError("The file's job was removed before it ended: drop the file again.")
            return StepOutcome(content=content.id, job=content.job, error=removal.record())
        if job.state is State.DONE:
            page = page_of(content.step)
            if page is not None and page + 1 < (content.reading.pages or 0):
                self._begin_page(content, job, page + 1)
                return None
            return self._after_step(content, job)
        if job.state in (State.FAILED, State.CANCELLED) and content.state is ContentState.WORKING:
            cancelled = BatchError(f"The job was cancelled; `batch retry {job.id}` runs it again.")
            return StepOutcome(content=content.id, job=job.id, error=dict(job.error or cancelled.record()))
        return None

    def _batch_outcome(self, content: Content) -> StepOutcome | None:
        """What an ended batch means for its file: its results, or what is wrong with its lines."""
        if content.state is not ContentState.WORKING:
            return None
        try:
            batch = BatchStore(self._ledger.store).batch(content.job)
        except NotFound:
            removal = BatchError("The file's batch was removed before it ended: drop the file again.")
            return StepOutcome(content=content.id, job=content.job, error=removal.record())
        if batch.status is BatchStatus.FAILED and batch.output_file is None and batch.error_file is None:
            problems = [f"line {one.line}: {one.message}" if one.line else one.message for one in batch.errors or []]
            more = f" … and {len(problems) - MAX_TOLD_PROBLEMS} more." if len(problems) > MAX_TOLD_PROBLEMS else ""
            error: BatchError = BadRequest("The requests are not valid: " + " ".join(problems[:MAX_TOLD_PROBLEMS]) + more)
            if any(one.code == SERVER_ERROR for one in batch.errors or []):  # they may well be
                error = BatchError(" ".join(problems[:MAX_TOLD_PROBLEMS]))
            return StepOutcome(content=content.id, job=content.job, error=error.record())
        if not batch.status.is_ended:
            return None
        return StepOutcome(content=content.id, job=content.job, model=batch.model or "")

    def _after_step(self, content: Content, job: Job) -> StepOutcome:
        model = self._loaded_model(job.kind)
        jobs = {step: job if id == job.id else self._ledger.store.job(id) for step, id in content.jobs.items()}
        entry = self._search_entry(content, jobs, model)
        if content.step == EMBEDDING:
            return StepOutcome(content=content.id, job=job.id, model=model, search_entry=entry)
        try:
            text = pages_text(jobs) if page_of(content.step) is not None else text_of(result_of(job))
        except BatchError as error:
            return StepOutcome(content=content.id, job=job.id, model=model, error=error.record())
        if (
            not text.strip()
            or isinstance(content.parameters, TextParameters | RequestParameters)
            or not content.parameters.embed
        ):
            return StepOutcome(content=content.id, job=job.id, model=model, search_entry=entry)
        draft = embedding_draft(text, lambda data: self._spool.keep(data, durable=True), job.source or "", job.id)
        return StepOutcome(content=content.id, job=job.id, model=model, next_step=EMBEDDING, draft=draft, search_entry=entry)

    def _search_entry(self, content: Content, jobs: Mapping[str, Job | None], model: str) -> PreparedContent | None:
        """What the steps so far put into the search index; None where an earlier one's result is gone."""
        done_jobs = {step: job for step, job in jobs.items() if job is not None and job.result_json is not None}
        if len(done_jobs) < len(jobs):
            return None
        if content.step != EMBEDDING:
            content = msgspec.structs.replace(content, models={**content.models, content.step: model})
        return search_entry(content, done_jobs, model, self._spool)

    def close(self, timeout_s: float) -> bool:
        """Wait for the page that is being drawn; whether it ended within `timeout_s` seconds."""
        return self._page_thread.close(timeout_s)

    def _begin_page(self, content: Content, job: Job, page: int) -> None:
        """Have the next page drawn and its job submitted, unless that is under way."""
        if content.state is not ContentState.DROPPED and (content.id, page) not in self._pages_under_way:
            self._pages_under_way.add((content.id, page))
            self._page_thread.run(lambda: self._submit_page(content, job, page))

    def _submit_page(self, content: Content, job: Job, page: int) -> None:
        model = self._loaded_model(job.kind)
        try:
            outcome = self._next_page(content, job, page, model)
        except BatchError as error:
            outcome = StepOutcome(content=content.id, job=job.id, model=model, error=error.record())
        try:
            if self._ledger.record_steps([outcome]):
                self._report_ready()
        finally:
            self._pages_under_way.discard((content.id, page))

    def _next_page(self, content: Content, job: Job, page: int, model: str) -> StepOutcome:
        name, parameters = job.source or "", content.parameters
        if content.reading.document is None or not isinstance(parameters, PageParameters):
            raise BatchError(f"{name} is no longer kept: drop the file again.")
        try:
            with self._spool.path(content.reading.document).open("rb") as document:
                picture = pdf_page_picture(document.fileno(), name, page)
        except FileNotFoundError:
            raise BatchError(f"{name} is no longer kept: drop the file again.") from None
        draft = page_draft(self._spool.keep(picture, durable=True), parameters, name, job.id)
        return StepOutcome(content=content.id, job=job.id, model=model, next_step=page_step(page), draft=draft)
