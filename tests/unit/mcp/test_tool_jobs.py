"""Jobs that tools ask for: told about in words, waited for so long and no longer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from batch.errors import BadRequest, NotFound, Unavailable
from batch.mcp.outputs import MAX_TEXT_BYTES
from batch.mcp.tool_jobs import ToolJobs, job_output
from batch.payloads.chat import AssistantMessage, ChatChoice, ChatPayload, ChatResult, Message, TextPart, Usage
from batch.payloads.json_text import encode
from batch.queue.jobs import Draft, JobProgress, Kind, Origin, Priority, State
from batch.queue.open_store import open_store
from batch.queue.store import Store
from one_worker import OneWorker

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A queue whose service is this process."""
    store = open_store(tmp_path / ".batch" / "batch.db")
    store.note({"service": {"pid": os.getpid(), "ports": {"vlm": 1}}})
    yield store
    store.close()


def draft() -> Draft:
    payload = ChatPayload(messages=[Message(role="user", content=[TextPart(text="Describe this.")])])
    return Draft(payload, Origin.CLI, Priority.INTERACTIVE, source="trip/a.jpg" + "x" * 20_000)


async def quiet(done: float, total: float) -> None:
    pass


def answer(text: str) -> str:
    choice = ChatChoice(finish_reason="stop", message=AssistantMessage(content=text))
    return encode(ChatResult(choices=[choice], usage=Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2))).decode()


async def test_a_job_that_takes_longer_goes_on_and_its_id_is_given(store: Store, tmp_path: Path) -> None:
    job = draft()
    output = await ToolJobs(store, tmp_path / ".batch").run(job, quiet, max_wait_s=0.1)
    assert (output.job, output.state, output.text) == (job.id, "queued", None) and job.id in (output.note or "")
    assert store.find(job.id).state is State.QUEUED


async def test_progress_is_told_until_the_result_is_there(store: Store, tmp_path: Path) -> None:
    told: list[float] = []
    worker = OneWorker(store)

    async def tell(done: float, total: float) -> None:
        told.append(done / total)
        worker.end(running.id, State.DONE, result=answer("a red circle"))

    async def work() -> None:
        nonlocal running
        while (taken := worker.take(Kind.VLM)) is None:
            await anyio.sleep(0.01)
        running = taken
        worker.progress(running.id, JobProgress(done=30, total=100))

    running = None  # type: ignore[assignment]
    async with anyio.create_task_group() as group:
        group.start_soon(work)
        output = await ToolJobs(store, tmp_path / ".batch").run(draft(), tell, max_wait_s=30)
    assert told == [0.3] and output.text == "a red circle" and output.note is None and not output.is_cut


def test_a_long_text_is_cut_and_says_so_and_an_error_is_told(store: Store) -> None:
    worker = OneWorker(store)
    ids = []
    for state, values in (
        (State.DONE, {"result": answer("x" * 20_000)}),
        (State.FAILED, {"error": BadRequest("Bad.").record()}),
    ):
        job = draft()
        store.submit(job)
        assert worker.take(Kind.VLM) is not None
        worker.end(job.id, state, **values)
        ids.append(job.id)
    long, failed = (job_output(store.find(id)) for id in ids)
    assert long.is_cut and len((long.text or "").encode()) <= MAX_TEXT_BYTES and len(long.source or "") <= MAX_TEXT_BYTES
    assert failed.error == "Bad." and failed.text is None and failed.state == "failed"


async def test_without_a_service_nothing_is_queued(store: Store, tmp_path: Path) -> None:
    store.note({"service": None})
    jobs = ToolJobs(store, tmp_path / ".batch")
    with pytest.raises(Unavailable, match="batch serve"):
        await jobs.run(draft(), quiet)
    assert store.jobs() == []
    with pytest.raises(NotFound):
        store.find("nobody")
