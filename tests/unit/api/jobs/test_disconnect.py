"""A job whose client has hung up is cancelled once, whenever that was, and no other job is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import Request

from batch.api.http.connection import CONNECTION, ClientConnection
from batch.api.jobs.disconnect import result_for_client
from batch.errors import Cancelled
from batch.payloads.embedding import EmbeddingResult
from batch.queue.frames import End
from batch.queue.hub.job_outcome import result_of
from batch.queue.hub.ticket import Ticket
from batch.queue.jobs import State

pytestmark = pytest.mark.anyio

RESULT = EmbeddingResult(count=1, dimensions=1, tokens=[1], ms=1.0)


class Jobs:
    """A hub whose jobs end when they are cancelled."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []
        self.tickets = {job: Ticket(self, job, "embedding") for job in ("one", "other")}

    async def outcome(self, job: str, type: Any, end: End | None = None) -> Any:
        assert end is not None
        return RESULT if end.state is State.DONE else result_of(job, None, type)

    async def jobs_ahead(self, job: str) -> int:
        return 0

    async def cancel(self, job: str) -> State:
        self.cancelled.append(job)
        self.tickets[job].push(End(job=job, state=State.CANCELLED))
        return State.CANCELLED

    def cancel_later(self, job: str) -> None: ...

    def is_shared(self, ticket: Ticket) -> bool:
        return False


def waiting(jobs: Jobs, job: str, connection: ClientConnection | None) -> asyncio.Task[EmbeddingResult]:
    state = {} if connection is None else {CONNECTION: connection}
    request = Request({"type": "http", "state": state})
    return asyncio.create_task(result_for_client(request, jobs.tickets[job], EmbeddingResult))


@pytest.mark.parametrize("is_early", [False, True])
async def test_a_client_that_hangs_up_ends_its_job_and_no_other(is_early: bool) -> None:
    jobs, connection = Jobs(), ClientConnection()
    if is_early:
        connection.lost()
    one, other = waiting(jobs, "one", connection), waiting(jobs, "other", ClientConnection())
    if not is_early:
        await asyncio.sleep(0)
        connection.lost()
    with pytest.raises(Cancelled):
        await one
    assert jobs.cancelled == ["one"]
    jobs.tickets["other"].push(End(job="other", state=State.DONE))
    assert await other == RESULT


async def test_a_client_that_hangs_up_after_its_result_ends_nothing() -> None:
    jobs, connection = Jobs(), ClientConnection()
    one = waiting(jobs, "one", connection)
    jobs.tickets["one"].push(End(job="one", state=State.DONE))
    assert await one == RESULT
    connection.lost()
    await asyncio.sleep(0)
    assert jobs.cancelled == []


async def test_a_wait_that_is_left_early_ends_its_job_also_without_a_connection() -> None:
    jobs = Jobs()
    one = waiting(jobs, "one", None)
    await asyncio.sleep(0)
    one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one
    assert jobs.cancelled == ["one"]
