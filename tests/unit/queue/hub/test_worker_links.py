"""What workers send arrives whole and in order, however the socket cuts it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from batch.errors import Unavailable
from batch.payloads.json_text import encode
from batch.payloads.questions import Tokenize
from batch.queue.channel import socket_path
from batch.queue.frames import Beat, Hello, Loading, RowChanged, WorkerFrame
from batch.queue.hub import worker_links
from batch.queue.hub.worker_links import WorkerLinks

HELLO = Hello(queue="vlm", pid=1, worker="w1")


class Heard:
    """What a hub would hear, in order."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self.may_go_on = asyncio.Event()

    async def connected(self, hello: Hello) -> None:
        await self.may_go_on.wait()
        self.events.append(hello)

    def received(self, queue: str, frame: WorkerFrame, worker: str) -> None:
        self.events.append(frame)

    async def row_changed(self, job: str) -> None:
        self.events.append(job)

    def gone(self, queue: str, worker: str) -> None:
        self.events.append((queue, worker))


@contextlib.asynccontextmanager
async def linked(folder: Path) -> AsyncIterator[tuple[WorkerLinks, Heard, asyncio.StreamReader, asyncio.StreamWriter]]:
    heard = Heard()
    links = WorkerLinks(
        folder, connected=heard.connected, received=heard.received, row_changed=heard.row_changed, gone=heard.gone
    )
    await links.start()
    reader, writer = await asyncio.open_unix_connection(str(socket_path(folder, "events")))
    try:
        yield links, heard, reader, writer
    finally:
        writer.close()
        links.close()


async def comes_true(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def played(play: Callable[[], Awaitable[None]]) -> None:
    async def within_a_minute() -> None:
        async with asyncio.timeout(60):
            await play()

    asyncio.run(within_a_minute())


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_frames_that_are_cut_anywhere_are_heard_in_order_also_behind_one_that_takes_a_while(tmp_path: Path, size: int) -> None:
    sent = [HELLO, Loading(progress=0.5), RowChanged(job="j1"), Beat()]

    async def play() -> None:
        async with linked(tmp_path) as (_, heard, _, writer):
            data = b"".join(encode(frame) + b"\n" for frame in sent)
            for start in range(0, len(data), size):
                writer.write(data[start : start + size])
                await writer.drain()
                await asyncio.sleep(0)
            assert heard.events == []
            heard.may_go_on.set()
            await comes_true(lambda: len(heard.events) == 4)
            assert heard.events == [HELLO, Loading(progress=0.5), "j1", Beat()]
            writer.close()
            await comes_true(lambda: heard.events[4:] == [("vlm", "w1")])

    played(play)


def test_a_worker_that_hangs_up_while_it_is_greeted_is_gone_once_it_was_there(tmp_path: Path) -> None:
    async def play() -> None:
        async with linked(tmp_path) as (links, heard, _, writer):
            writer.write(encode(HELLO) + b"\n" + encode(Beat()) + b"\n")
            await comes_true(lambda: links.is_connected("w1"))
            writer.close()
            await writer.wait_closed()
            heard.may_go_on.set()
            await comes_true(lambda: len(heard.events) == 3)
            assert heard.events == [HELLO, Beat(), ("vlm", "w1")] and not links.is_connected("w1")

    played(play)


@pytest.mark.parametrize("data", [b"nonsense\n", b'{"type":"nothing"}\n', b"x" * 5000])
def test_a_worker_that_sends_no_frames_is_hung_up_on_and_what_it_was_asked_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.setattr(worker_links, "MAX_FRAME_BYTES", 4096)

    async def play() -> None:
        async with linked(tmp_path) as (links, heard, reader, writer):
            heard.may_go_on.set()
            writer.write(encode(HELLO) + b"\n")
            await comes_true(lambda: heard.events == [HELLO])
            asked = asyncio.create_task(links.ask("w1", Tokenize(content="a"), 20))
            assert b"tokenize" in (await reader.readline()).lower()
            writer.write(data)
            with pytest.raises(Unavailable, match="stopped before it answered"):
                await asked
            assert await reader.read() == b"" and not links.is_connected("w1")

    played(play)
