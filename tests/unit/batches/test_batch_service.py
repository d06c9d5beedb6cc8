"""The batch service in this process, on its endpoints; jobs are ended as a worker ends them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from batch.api.batches.endpoints import line_endpoints
from batch.batches.batch_store import BatchStore
from batch.batches.file_store import FileStore
from batch.batches.line_store import TOGETHER_BYTES, LineStore
from batch.batches.result_file import ResultFile, remove_left_over
from batch.batches.rows import Batch, BatchApi, BatchDraft, BatchLine, BatchStatus, LineProblem, Purpose
from batch.batches.service import FIRST_LINES, QUEUED_LINES, BatchService
from batch.batches.validation import BatchValidation
from batch.payloads.embedding import EmbeddingResult
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Draft, Kind, Priority, State
from batch.queue.store import Ending
from batch.settings import LimitSettings
from hub_stage import opened_hub

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("every_database")]

LARGE = 250_000
"""Dimensions of a vector that takes over a megabyte as JSON."""


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    async with opened_hub(tmp_path) as hub:
        yield hub


@contextlib.asynccontextmanager
async def serving(hub: Hub, folder: Path) -> AsyncIterator[BatchService]:
    service = BatchService(hub, line_endpoints(hub, LimitSettings()), folder, max_line_bytes=1 << 20)
    task = asyncio.create_task(service.run())
    try:
        yield service
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.02)


def new_batch(hub: Hub, *lines: str) -> Batch:
    text = "".join(line + "\n" for line in lines).encode()
    sha256 = hub.spool.keep(text)
    draft = BatchDraft(endpoint="/v1/embeddings", input_sha256=sha256, input_bytes=len(text), priority=Priority.BATCH)
    return BatchStore(hub.store).create(draft)


def request_line(custom_id: str) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/embeddings", "body": {"input": "a"}})


async def test_what_is_wrong_with_one_batch_holds_up_no_other(hub: Hub, tmp_path: Path) -> None:
    broken, other = new_batch(hub, request_line("a")), new_batch(hub, "no JSON")
    hub.path(broken.input_sha256).unlink()
    store = BatchStore(hub.store)
    async with serving(hub, tmp_path / "batches"):
        await until(lambda: store.batch(other.id).status is BatchStatus.FAILED)
        assert store.batch(broken.id).status is BatchStatus.VALIDATING, "its file may come back"


async def test_a_batch_that_is_cancelled_while_its_wrong_lines_are_read_ends(hub: Hub, tmp_path: Path) -> None:
    """Its lines were forgotten although it did not fail: they were waited for for ever."""
    batch, store = new_batch(hub, request_line("a"), "no JSON"), BatchStore(hub.store)
    service = BatchService(hub, line_endpoints(hub, LimitSettings()), tmp_path / "batches", max_line_bytes=1 << 20)
    fail = store.fail

    def fail_late(batch: Batch, problems: Sequence[LineProblem]) -> None:
        store.cancel(batch.id, batch.api)
        fail(batch, problems)

    service.store.fail = fail_late  # type: ignore[method-assign]
    for _ in range(4):
        await service._look()
    ended = store.batch(batch.id)
    assert (ended.status, ended.total, ended.failed) == (BatchStatus.CANCELLED, 1, 1)


async def test_large_results_are_held_in_memory_a_few_megabytes_at_a_time(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    append = ResultFile.append

    def measured(self: ResultFile, lines: Sequence[bytes], accounted_bytes: int) -> int:
        sizes.append(sum(map(len, lines)))
        return append(self, lines, accounted_bytes)

    monkeypatch.setattr(ResultFile, "append", measured)
    batch = new_batch(hub, *(request_line(str(at)) for at in range(12)))
    service = BatchService(hub, line_endpoints(hub, LimitSettings()), tmp_path / "batches", max_line_bytes=1 << 20)
    store, lines = BatchStore(hub.store), LineStore(hub.store)
    while len(lines.queued_jobs(batch)) < 12:
        await service._look()
    vectors = base64.b64encode(np.full(LARGE, 0.5, "<f4").tobytes()).decode()
    result = msgspec.json.encode(EmbeddingResult(count=1, dimensions=LARGE, vectors=vectors, tokens=[3], ms=1.0)).decode()
    leases = hub.store.take(Kind.EMBEDDING, "w1", limit=12)
    hub.store.end([Ending(lease, State.DONE, result) for lease in leases])
    while not store.batch(batch.id).status.is_ended:
        await service._look()
    ended = store.batch(batch.id)
    assert (ended.status, ended.completed) == (BatchStatus.COMPLETED, 12)
    assert sum(sizes) > 2 * TOGETHER_BYTES
    assert max(sizes) < 2 * TOGETHER_BYTES


async def test_growing_files_of_batches_that_have_ended_are_removed(hub: Hub, tmp_path: Path) -> None:
    """Of a service that died between a batch's end and their removal."""
    folder, store = tmp_path / "batches", BatchStore(hub.store)
    live, ended = new_batch(hub, request_line("a")), new_batch(hub, request_line("a"))
    assert remove_left_over(folder, hub.store) == 0
    store.end(ended, BatchStatus.COMPLETED, None, None)
    for batch in (live, ended):
        ResultFile(folder / f"{batch.id}.output.jsonl").append([b"{}"], 0)
    (folder / "note.txt").touch()
    assert remove_left_over(folder, hub.store) == 1
    assert {path.name for path in folder.iterdir()} == {f"{live.id}.output.jsonl", "note.txt"}


async def test_ids_that_are_no_files_are_not_written_down_for_a_batch(hub: Hub) -> None:
    """A client's line may name millions, and held up every other write meanwhile."""
    file = FileStore(hub.store).create_file(Purpose.USER_DATA, "a.wav", 1, hub.spool.keep(b"x"), None)
    body = {"input": [{"file_id": id} for id in (file.id, *(f"file-{at:024x}" for at in range(1200)))]}
    line = json.dumps({"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": body})
    batch, written = new_batch(hub, line), []
    store = BatchStore(hub.store)
    validation = BatchValidation(hub, store, line_endpoints(hub, LimitSettings()), 1 << 20)
    add_lines = validation._lines.add_lines
    validation._lines.add_lines = lambda *arguments: (written.extend(arguments[5]), add_lines(*arguments))  # type: ignore[method-assign,assignment]
    assert (await validation.read_slice(batch)).status is BatchStatus.IN_PROGRESS
    assert written == [file.id]
    assert hub.store.read("select file from batch_file") == [(file.id,)]


async def test_a_batch_of_more_tasks_than_one_may_have_fails_also_when_it_is_read_in_two_goes(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of embeddings every input is a task; after a restart only lines were counted of what had been read."""
    from batch.batches import validation as validation_module

    monkeypatch.setattr(validation_module, "READ_TOGETHER", 2)
    monkeypatch.setitem(validation_module.MAX_TASKS, BatchApi.OPENAI, 50)
    body = {"input": ["a"] * 10}
    lines = [json.dumps({"custom_id": str(n), "method": "POST", "url": "/v1/embeddings", "body": body}) for n in range(6)]
    for count, expected in ((5, BatchStatus.IN_PROGRESS), (6, BatchStatus.FAILED)):
        batch, store = new_batch(hub, *lines[:count]), BatchStore(hub.store)
        while batch.status is BatchStatus.VALIDATING:
            batch = await BatchValidation(hub, store, line_endpoints(hub, LimitSettings()), 1 << 20).read_slice(batch)
        assert (batch.status, batch.tasks) == (expected, 10 * count)
    assert batch.errors is not None and batch.errors[0].code == "too_many_tasks"


async def test_a_batch_that_is_cancelled_before_it_was_read_has_every_line_in_its_error_file(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines that had not been read by then stood nowhere."""
    from batch.batches import validation as validation_module

    monkeypatch.setattr(validation_module, "READ_TOGETHER", 3)
    batch, store = new_batch(hub, *(request_line(f"n{at}") for at in range(10))), BatchStore(hub.store)
    service = BatchService(hub, line_endpoints(hub, LimitSettings()), tmp_path / "batches", max_line_bytes=1 << 20)
    await service._look()
    assert store.batch(batch.id).total == 3
    store.cancel(batch.id, batch.api)
    for _ in range(20):
        await service._look()
    assert hub.store.read("select count(*) from job") == [(0,)], "nothing of it ran"
    ended = store.batch(batch.id)
    assert (ended.status, ended.total, ended.failed, ended.lost) == (BatchStatus.CANCELLED, 10, 10, 10)
    text = hub.path(FileStore(hub.store).file(ended.error_file or "").sha256).read_text()
    assert [json.loads(line)["custom_id"] for line in text.splitlines()] == [f"n{at}" for at in range(10)]


async def test_a_batch_that_another_service_began_ends_here_with_every_result_once_and_no_job_run_again(
    hub: Hub, tmp_path: Path
) -> None:
    """Where services share a database, the growing files are the other one's; a home's own next service has them."""
    batch, store = new_batch(hub, *map(request_line, "abc")), BatchStore(hub.store)
    result = msgspec.json.encode(EmbeddingResult(count=1, dimensions=1, vectors="AAAAPw==", tokens=[3], ms=1.0)).decode()
    service = BatchService(hub, line_endpoints(hub, LimitSettings()), tmp_path / "batches", max_line_bytes=1 << 20)
    while len(LineStore(hub.store).queued_jobs(batch)) < 3:
        await service._look()
    first, second = hub.store.take(Kind.EMBEDDING, "w1", limit=2)
    error = {"message": "It cannot be embedded.", "status": 400, "type": "invalid_request_error"}
    hub.store.end([Ending(first, State.DONE, result), Ending(second, State.FAILED, error=error)])
    while store.batch(batch.id).completed + store.batch(batch.id).failed < 2:
        await service._look()
    folder = tmp_path / ("elsewhere" if hub.store.is_shared else "batches")
    (tmp_path / "elsewhere").mkdir()
    ResultFile(tmp_path / "elsewhere" / f"{batch.id}.output.jsonl").append([b"of an earlier turn, and longer than all" * 99], 0)
    other = BatchService(hub, line_endpoints(hub, LimitSettings()), folder, max_line_bytes=1 << 20)
    other.forget_growing_files()
    (third,) = hub.store.take(Kind.EMBEDDING, "w1", limit=9)
    hub.store.end([Ending(third, State.DONE, result)])
    while not store.batch(batch.id).status.is_ended:
        await other._look()
    ended, files = store.batch(batch.id), FileStore(hub.store)
    assert (ended.status, ended.completed, ended.failed, ended.usage.input_tokens) == (BatchStatus.COMPLETED, 2, 1, 6)
    texts = [hub.path(files.file(id or "").sha256).read_text() for id in (ended.output_file, ended.error_file)]
    names = [sorted(json.loads(line)["custom_id"] for line in text.splitlines()) for text in texts]
    assert sorted(names[0] + names[1]) == ["a", "b", "c"] and len(names[1]) == 1
    assert hub.store.read("select count(*) from job") == [(3,)]


async def test_the_first_lines_are_queued_before_the_others_are_read(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = new_batch(hub, *(request_line(str(number)) for number in range(QUEUED_LINES + 10)))
    groups: list[list[int]] = []
    queue_lines = LineStore.queue_lines

    def note(self: LineStore, jobs: Sequence[tuple[BatchLine, Draft]]) -> None:
        queue_lines(self, jobs)
        groups.append([line.line for line, _ in jobs])

    monkeypatch.setattr(LineStore, "queue_lines", note)
    async with serving(hub, tmp_path / "batches"):
        await until(lambda: sum(map(len, groups)) >= QUEUED_LINES)
    assert [len(group) for group in groups] == [FIRST_LINES, QUEUED_LINES - FIRST_LINES]
    assert [line for group in groups for line in group] == list(range(1, QUEUED_LINES + 1))
    assert hub.store.queue_size(Kind.EMBEDDING) == QUEUED_LINES
    assert BatchStore(hub.store).batch(batch.id).status is BatchStatus.IN_PROGRESS
