"""Jobs that tools ask for: submitted to the queue, followed for a while, told about in words."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from anyio import sleep, to_thread

from batch.cpu_sharing.core_table import alive
from batch.errors import BatchError, NotFound, Unavailable
from batch.folder.pipeline import text_of
from batch.mcp.outputs import JobOutput, cut
from batch.payloads.job_payload import Result
from batch.queue.channel import Waker
from batch.queue.jobs import Draft, Job, State
from batch.queue.store import Store

MAX_WAIT_S = 60.0
"""After which a tool gives the job's id instead of its result."""
_LOOK_INTERVAL_S = 0.05
_TELL_INTERVAL_S = 1.0

ReportProgress = Callable[[float, float], Awaitable[None]]
"""Reports progress: (done, total)."""


class ToolJobs:
    """May be used from any event loop; the store is asked in threads."""

    def __init__(self, store: Store, state_dir: Path) -> None:
        self._store = store
        self._state_dir = state_dir

    def require_service(self) -> None:
        """Raise Unavailable unless the service runs. Blocking."""
        note = self._store.notes().get("service")
        if not note or not alive(note["pid"]):
            raise Unavailable(f"The service is not running in {self._store.home}: start it there with `batch serve`.")

    def port(self, kind: str) -> int:
        """The running service's port of a model. Raises Unavailable. Blocking."""
        self.require_service()
        return int(self._store.notes()["service"]["ports"][kind])

    async def run(self, draft: Draft, report: ReportProgress, max_wait_s: float = MAX_WAIT_S) -> JobOutput:
        """Submit a job and wait for its end, so long at most. A job that goes on longer goes on without the tool."""
        await to_thread.run_sync(self._submit, draft)
        started_at = told_at = time.monotonic()
        while True:
            job = await to_thread.run_sync(self._store.job, draft.id)
            if job is None:
                raise NotFound(f"Job {draft.id} is gone: it ended, and its time to be kept is over.")
            if job.state.ended or time.monotonic() - started_at >= max_wait_s:
                return job_output(job)
            if time.monotonic() - told_at >= _TELL_INTERVAL_S:
                told_at = time.monotonic()
                await report(_share(job) or 0.0, 1.0)
            await sleep(_LOOK_INTERVAL_S)

    def _submit(self, draft: Draft) -> None:
        self.require_service()
        self._store.submit(draft, durable=True)
        waker = Waker(self._state_dir)
        try:
            waker.wake(draft.kind)
        finally:
            waker.close()


def job_output(job: Job) -> JobOutput:
    """A job as a tool tells of it."""
    text = _text(job)
    excerpt = None if text is None else cut(text)
    return JobOutput(
        job=job.id,
        state=job.state.value,
        source=None if job.source is None else cut(job.source),
        text=excerpt,
        is_cut=excerpt != text,
        error=cut(str(job.error["message"])) if job.error else None,
        progress=_share(job),
        note=None if job.state.ended else f'It goes on: ask for it later with the tool "job" and the id {job.id}.',
    )


def _text(job: Job) -> str | None:
    if job.state is not State.DONE:
        return None
    try:
        result: Result | None = job.result
        return None if result is None else text_of(result)
    except BatchError as error:
        return error.message


def _share(job: Job) -> float | None:
    progress = job.progress
    if job.state is not State.RUNNING or progress is None or not progress.total:
        return None
    return min(1.0, progress.done / progress.total)
