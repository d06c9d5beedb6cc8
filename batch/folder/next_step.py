"""What happens when a job of the inbox ends: the next step of its content, or its outcome."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from batch.errors import BatchError
from batch.folder import pipeline as steps
from batch.folder.ledger import Content, Ledger, Step
from batch.queue.jobs import Job, Kind, State
from batch.queue.spool import Spool


class Chain:
    """Blocking: call from one thread at a time."""

    def __init__(self, ledger: Ledger, spool: Spool, model: Callable[[Kind], str]) -> None:
        """`model` names the model that a worker has loaded, or "" while that is not known."""
        self._ledger = ledger
        self._spool = spool
        self._model = model

    def ended(self, jobs: Iterable[str]) -> int:
        """Act on ended jobs, by id; others than the inbox's are passed over. Returns how many files are due now."""
        found = []
        for id in jobs:
            content = self._ledger.of_job(id)
            if content and (step := self._step(content)):
                found.append(step)
        return self._ledger.advance(found) if found else 0

    def sweep(self, after: int = 0, limit: int = 200) -> tuple[int | None, int]:
        """Look at a slice of the unfinished contents for jobs whose end was not heard, as after a crash.

        Returns the next slice's start, None behind the last, and how many files are due now.
        """
        contents = self._ledger.unfinished(after, limit)
        found = [step for content in contents if (step := self._step(content))]
        due = self._ledger.advance(found) if found else 0
        return (contents[-1].id if len(contents) == limit else None), due

    def _step(self, content: Content) -> Step | None:
        job = self._ledger.store.job(content.job)
        if job is None:
            if content.state == "failed":
                return None
            gone = BatchError("The file's job was removed before it ended: drop the file again.")
            return Step(content.id, content.job, error=gone.record())
        if job.state is State.DONE:
            return self._after(content, job)
        if job.state in (State.FAILED, State.CANCELLED) and content.state == "working":
            reason = job.error or BatchError(f"The job was cancelled; `batch retry {job.id}` runs it again.").record()
            return Step(content.id, job.id, error=reason)
        return None

    def _after(self, content: Content, job: Job) -> Step:
        model = self._model(job.kind)
        if content.step == steps.EMBEDDING:
            return Step(content.id, job.id, model)
        try:
            text = steps.text_of(content.step, job.result or {})
        except BatchError as error:
            return Step(content.id, job.id, model, error=error.record())
        if not text or not content.parameters.get("embed"):
            return Step(content.id, job.id, model)
        draft = steps.embedding(text, lambda data: self._spool.keep(data, durable=True), job.source or "", job.id)
        return Step(content.id, job.id, model, steps.EMBEDDING, draft)


def text_in(job: Job, spool: Spool) -> str:
    """The text that an embedding job was made of."""
    if "blob" in job.request:
        return str(json.loads(spool.read(job.request["blob"]))[0])
    return str(job.request["inputs"][0])
