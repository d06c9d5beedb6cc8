"""The result of an ended job, or its error: from the worker's report of the end, or from the job's row."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from batch.errors import BatchError, Cancelled
from batch.payloads.job_payload import Result
from batch.payloads.json_text import decode
from batch.queue.frames import ABSENT, End
from batch.queue.jobs import Job, State, UnreadableJob
from batch.queue.store import StoreAway

T = TypeVar("T")
R = TypeVar("R", bound=Result)

_RETRY_S = 0.5


async def read_patiently(read: Callable[[], Awaitable[T]]) -> T:
    """What `read` gives, however long the database is away: whose job has ended is not turned away for that."""
    while True:
        try:
            return await read()
        except StoreAway:
            await asyncio.sleep(_RETRY_S)


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
