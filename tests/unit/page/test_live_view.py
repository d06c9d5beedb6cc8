"""The live view: one reading a second however many watch, eight streams at most, and an end with the service."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batch.errors import BadRequest, Unavailable
from batch.page.live_view import MAX_STREAMS, LiveView
from batch.queue.jobs import Kind
from batch.service_status import ServiceStatus
from folder_stage import picture
from page_stage import page_staged


def follow(view: LiveView) -> AsyncIterator[bytes]:
    """The events of one page that watches."""
    return view.follow(view.take_place())


def test_who_watches_hears_the_status_and_which_jobs_ended(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            stream = follow(stage.page.live_view)
            assert await anext(stream) == b"retry: 5000\n\n"
            await stage.deliver("red.jpg", picture())
            ended: dict[str, str] = {}
            status = {}
            async with asyncio.timeout(20):
                while not ended:
                    event = (await anext(stream)).decode()
                    assert event.startswith("event: status\ndata: ") and event.endswith("\n\n")
                    status = json.loads(event.split("data: ")[1])
                    ended |= status["ended"]
            assert set(ended.values()) == {"done"} and status["models"]["vlm"]["done_today"] == 1

    asyncio.run(main())


def test_a_reading_that_fails_unexpectedly_ends_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batch.page.live_view.INTERVAL_S", 0.01)
    failures = [sqlite3.OperationalError("database is locked"), BadRequest("not now")]

    async def read() -> ServiceStatus:
        if failures:
            raise failures.pop()
        return {"models": {kind.value: {"queued": {}} for kind in Kind}}  # type: ignore[return-value, typeddict-item]

    async def main() -> None:
        view = LiveView(read)
        view.start()
        stream = follow(view)
        async with asyncio.timeout(10):
            await anext(stream)
            assert (await anext(stream)).startswith(b"event: status") and not failures
        await view.stop()

    asyncio.run(main())


def test_a_page_that_is_slow_to_read_misses_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batch.page.live_view.INTERVAL_S", 0.02)

    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            view = stage.page.live_view
            stream = follow(view)
            assert await anext(stream) == b"retry: 5000\n\n"
            assert (await anext(stream)).startswith(b"event: status")
            await stage.deliver("red.jpg", picture())
            other = follow(view)
            await anext(other)
            for _ in range(3):  # events go by that the first does not read
                await anext(other)
            told = json.loads((await anext(stream)).decode().split("data: ")[1])
            assert set(told["ended"].values()) == {"done"}

    asyncio.run(main())


def test_more_pages_than_eight_are_turned_away_and_places_come_free(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            streams = [follow(stage.page.live_view) for _ in range(MAX_STREAMS)]
            for stream in streams:
                await anext(stream)
            answer = await stage.get("/page/events")
            assert answer.status_code == Unavailable.status and "retry-after" in answer.headers
            await streams[0].aclose()  # type: ignore[attr-defined]
            await anext(follow(stage.page.live_view))
            with pytest.raises(Unavailable):
                follow(stage.page.live_view)

    asyncio.run(main())


def test_a_client_that_goes_before_its_stream_begins_leaves_its_place(tmp_path: Path) -> None:
    async def gone() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def send(message: object) -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            for _ in range(MAX_STREAMS + 1):
                headers = [(b"host", b"127.0.0.1:8080")]
                scope = {"type": "http", "method": "GET", "path": "/page/events", "query_string": b"", "headers": headers}
                await stage.app({**scope, "scheme": "http", "server": ("127.0.0.1", 8080)}, gone, send)
            assert await anext(follow(stage.page.live_view))

    asyncio.run(main())


def test_who_asks_for_the_head_alone_gets_it_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path) as stage, asyncio.timeout(20):
            for _ in range(MAX_STREAMS + 1):
                answer = await stage.client.head("/page/events")
                assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
            assert await anext(follow(stage.page.live_view)), "no place is held for those who read no events"
            id = await stage.deliver("note.txt", "some words")
            answer = await stage.client.head(f"/page/media/{id}")
            assert (answer.content, answer.headers["content-length"]) == (b"", "10")
            assert (await stage.client.head(f"/page/media/{id}", headers={"range": "bytes=2-3"})).status_code == 206

    asyncio.run(main())


def test_a_stream_ends_with_the_service_and_others_go_on_meanwhile(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            stream = follow(stage.page.live_view)
            await anext(stream)
            waiting = asyncio.ensure_future(anext(stream, b"end"))
            assert (await stage.get("/page/status")).status_code == 200, "a stream must not hold up the loop"
            await stage.page.live_view.stop()
            async with asyncio.timeout(5):
                while await waiting != b"end":
                    waiting = asyncio.ensure_future(anext(stream, b"end"))

    asyncio.run(main())
