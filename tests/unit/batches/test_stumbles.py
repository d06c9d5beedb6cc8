"""Batches with which the service itself makes mistakes: they are given up, with every line in one of their files."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batch.api.batches.endpoints import line_endpoints
from batch.batches import stumbles
from batch.batches.batch_store import BatchStore
from batch.batches.file_store import FileStore
from batch.batches.line_store import LineStore
from batch.batches.rows import Batch, BatchDraft, BatchStatus
from batch.batches.service import BatchService
from batch.errors import BatchError, DiskFull
from batch.payloads.embedding import EmbeddingResult
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Kind, Priority, State
from batch.queue.store import Ending, StoreAway
from batch.settings import LimitSettings
from hub_stage import opened_hub

pytestmark = pytest.mark.anyio

LINES = 5


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    async with opened_hub(tmp_path) as hub:
        yield hub


@pytest.fixture
def batches(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BatchService:
    monkeypatch.setattr(stumbles, "PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(stumbles, "LINE_PAUSES_S", (0.0,))
    return BatchService(hub, line_endpoints(hub, LimitSettings()), tmp_path / "batches", max_line_bytes=1 << 20)


def new_batch(hub: Hub) -> Batch:
    lines = [{"custom_id": f"n{n}", "method": "POST", "url": "/v1/embeddings", "body": {"input": f"{n}"}} for n in range(LINES)]
    text = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    sha256 = hub.spool.keep(text)
    draft = BatchDraft(endpoint="/v1/embeddings", input_sha256=sha256, input_bytes=len(text), priority=Priority.BATCH)
    return BatchStore(hub.store).create(draft)


def end_jobs(hub: Hub) -> None:
    """As a worker ends those that are queued."""
    result = EmbeddingResult(count=1, dimensions=1, vectors="AAAAPw==", tokens=[3], ms=1.0)
    leases = hub.store.take(Kind.EMBEDDING, "w1", limit=100)
    hub.store.end([Ending(lease, State.DONE, msgspec.json.encode(result).decode()) for lease in leases])


async def look_until(batches: BatchService, batch: Batch, *, ends_jobs: bool = True) -> Batch:
    """The batch once it has ended."""
    for _ in range(40):
        await batches._look()
        if ends_jobs:
            end_jobs(batches._hub)
        if (now := batches.store.batch(batch.id)).status.is_ended:
            return now
    raise AssertionError(f"it is {batches.store.batch(batch.id)}")


def lines_of(hub: Hub, file: str | None) -> dict[str, Any]:
    if file is None:
        return {}
    text = hub.path(FileStore(hub.store).file(file).sha256).read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert len({line["custom_id"] for line in lines}) == len(lines)
    return {line["custom_id"]: line for line in lines}


async def test_a_batch_that_the_service_cannot_read_is_failed_with_a_sentence_and_the_others_run(
    hub: Hub, batches: BatchService
) -> None:
    """It was tried again every second, for ever."""
    broken, other = new_batch(hub), None
    input_file = hub.path(broken.input_sha256)
    text = input_file.read_bytes()
    input_file.unlink()
    failed = await look_until(batches, broken)
    assert failed.status is BatchStatus.FAILED and failed.failed_at is not None
    assert failed.errors is not None and [problem.code for problem in failed.errors] == ["server_error"]
    hub.spool.keep(text)
    other = new_batch(hub)
    assert (await look_until(batches, other)).status is BatchStatus.COMPLETED


async def test_a_batch_that_cannot_go_on_is_failed_with_every_line_in_one_of_its_files(hub: Hub, batches: BatchService) -> None:
    batch = new_batch(hub)
    while len(LineStore(hub.store).queued_jobs(batch)) < LINES:
        await batches._look()
    end_jobs(hub)
    hub.path(batch.input_sha256).unlink()
    failed = await look_until(batches, batch)
    assert (failed.status, failed.completed, failed.failed) == (BatchStatus.FAILED, 0, LINES)
    assert failed.errors is not None and failed.errors[0].code == "server_error"
    errors = lines_of(hub, failed.error_file)
    assert set(errors) == {f"n{n}" for n in range(LINES)}
    assert {line["error"]["code"] for line in errors.values()} == {"server_error"}


async def test_a_line_that_the_service_makes_mistakes_with_gets_its_500_and_the_others_run(
    hub: Hub, batches: BatchService, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint: Any = batches._endpoints["/v1/embeddings"]
    create_job, to_response = endpoint.create_job, endpoint.to_response

    async def create(body: Any, batch: int | None = None) -> Any:
        if body["input"] == "1":
            raise RuntimeError("a mistake with its request")
        return await create_job(body, batch)

    def respond(body: Any, *rest: Any) -> Any:
        if body["input"] == "3":
            raise RuntimeError("a mistake with its answer")
        return to_response(body, *rest)

    monkeypatch.setattr(endpoint, "create_job", create)
    monkeypatch.setattr(endpoint, "to_response", respond)
    ended = await look_until(batches, new_batch(hub))
    assert (ended.status, ended.completed, ended.failed) == (BatchStatus.COMPLETED, 3, 2)
    assert set(lines_of(hub, ended.output_file)) == {"n0", "n2", "n4"}
    errors = lines_of(hub, ended.error_file)
    assert {name: line["response"]["status_code"] for name, line in errors.items()} == {"n1": 500, "n3": 500}


async def test_a_batch_that_stumbles_is_not_tried_again_before_its_pause_is_over(
    hub: Hub, batches: BatchService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stumbles, "PAUSES_S", (60.0,))
    batch, tries = new_batch(hub), 0

    async def stumble(batch: Batch) -> Batch:
        nonlocal tries
        tries += 1
        raise RuntimeError("a mistake")

    monkeypatch.setattr(batches._validation, "read_slice", stumble)
    for _ in range(5):
        await batches._look()
    assert tries == 1 and batches.store.batch(batch.id).status is BatchStatus.VALIDATING
    batches.store.cancel(batch.id, batch.api)
    for _ in range(5):
        await batches._look()
    assert tries == 2, "one that was cancelled is tried at once"


async def test_a_disk_or_a_database_that_is_away_costs_no_line_and_no_try(
    hub: Hub, batches: BatchService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lines were answered with the database's 503."""
    batch = new_batch(hub)
    endpoint: Any = batches._endpoints["/v1/embeddings"]
    create_job, to_response = endpoint.create_job, endpoint.to_response
    troubles: list[BatchError] = [DiskFull(), StoreAway()] * 5

    async def create(*arguments: Any) -> Any:
        if troubles:
            raise troubles.pop()
        return await create_job(*arguments)

    def respond(*arguments: Any) -> Any:
        if troubles:
            raise troubles.pop()
        return to_response(*arguments)

    monkeypatch.setattr(endpoint, "create_job", create)
    monkeypatch.setattr(endpoint, "to_response", respond)
    while troubles:
        with contextlib.suppress(DiskFull, StoreAway):
            await batches._look()
    while len(LineStore(hub.store).queued_jobs(batch)) < LINES:
        await batches._look()
    troubles += [DiskFull(), StoreAway()] * 5
    end_jobs(hub)
    while troubles:
        with contextlib.suppress(DiskFull, StoreAway):
            await batches._look()
    ended = await look_until(batches, batch)
    assert (ended.status, ended.completed, ended.failed) == (BatchStatus.COMPLETED, LINES, 0)
