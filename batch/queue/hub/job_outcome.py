"""The result of an ended job, or its error: from the worker's report of the end, or from the job's row."""

from __future__ import annotations

from typing import Any, TypeVar

from batch.errors import BatchError, Cancelled
from batch.payloads.job_payload import Result
from batch.payloads.json_text import decode
from batch.queue.frames import ABSENT, End
from batch.queue.jobs import Job, State, UnreadableJob

R = TypeVar("R", bound=Result)


def result_in(end: End, type: type[R]) -> R | None:
    """The result that an end brought along as a struct of `type`, None where the row has it. Raises the job's error."""
    if end.state is State.DONE and end.result is not ABSENT:
        return decode(bytes(end.result), type)
    if end.state is State.FAILED and end.error is not ABSENT:
        raise BatchError.from_record(decode(bytes(end.error), dict[str, Any]))
    return None


def result_of(job: str, row: Job | None, type: type[R]) -> R:
    """The result in a job's row as a struct of `type`. Raises the job's error, Cancelled where there is no result."""
    if row is None:
        raise Cancelled(f"Job {job} is gone.")
    if row.state is State.DONE:
        result = row.result
        if not isinstance(result, type):
            raise UnreadableJob()
        return result
    if row.state is State.FAILED:
        raise BatchError.from_record(dict(row.error or {}))
    raise Cancelled(f"Job {job} was cancelled.")
