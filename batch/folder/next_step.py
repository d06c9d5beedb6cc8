"""What the end of a job means for its content: the next step, or the outcome."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from batch.errors import BatchError
from batch.folder.ledger import Ledger
from batch.folder.ledger_rows import Content, ContentState, StepOutcome, TextParameters
from batch.folder.pipeline import EMBEDDING, embedding_draft, result_of, text_of
from batch.payloads.embedding import EmbeddingPayload
from batch.queue.jobs import Job, Kind, State, UnreadableJob
from batch.queue.spool import Spool


class NextSteps:
    """Blocking: call from one thread at a time."""

    def __init__(self, ledger: Ledger, spool: Spool, loaded_model: Callable[[Kind], str]) -> None:
        """`loaded_model` names the model that a worker has loaded, or "" while that is not known."""
        self._ledger = ledger
        self._spool = spool
        self._loaded_model = loaded_model

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
        job = self._ledger.store.job(content.job)
        if job is None:
            if content.state is not ContentState.WORKING:
                return None
            gone = BatchError("The file's job was removed before it ended: drop the file again.")
            return StepOutcome(content=content.id, job=content.job, error=gone.record())
        if job.state is State.DONE:
            return self._after_step(content, job)
        if job.state in (State.FAILED, State.CANCELLED) and content.state is ContentState.WORKING:
            cancelled = BatchError(f"The job was cancelled; `batch retry {job.id}` runs it again.")
            return StepOutcome(content=content.id, job=job.id, error=dict(job.error or cancelled.record()))
        return None

    def _after_step(self, content: Content, job: Job) -> StepOutcome:
        model = self._loaded_model(job.kind)
        if content.step == EMBEDDING:
            return StepOutcome(content=content.id, job=job.id, model=model)
        try:
            text = text_of(result_of(job))
        except BatchError as error:
            return StepOutcome(content=content.id, job=job.id, model=model, error=error.record())
        if not text or isinstance(content.parameters, TextParameters) or not content.parameters.embed:
            return StepOutcome(content=content.id, job=job.id, model=model)
        draft = embedding_draft(text, lambda data: self._spool.keep(data, durable=True), job.source or "", job.id)
        return StepOutcome(content=content.id, job=job.id, model=model, next_step=EMBEDDING, draft=draft)


def text_in(job: Job, spool: Spool) -> str:
    """The text that an embedding job was made of."""
    payload = job.payload
    if not isinstance(payload, EmbeddingPayload):
        raise UnreadableJob()
    if payload.blob is not None:
        return str(json.loads(spool.read(payload.blob))[0])
    return str((payload.inputs or [""])[0])
