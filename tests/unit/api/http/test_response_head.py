"""A response's head and its first bytes leave together, and a head never waits for a body that takes its time."""

from __future__ import annotations

import asyncio
from typing import Any

from batch.api.http.response_head import HeadWithBody


class Recorder:
    """A transport that only writes down."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.sent.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def played(*steps: Any) -> Recorder:
    """What a transport was given: bytes are written, None lets the event loop turn, "close" closes."""
    recorder = Recorder()

    async def play() -> None:
        transport = HeadWithBody(recorder, asyncio.get_running_loop())  # type: ignore[arg-type]
        for step in steps:
            if step is None:
                await asyncio.sleep(0)
            elif step == "close":
                transport.close()
            else:
                transport.write(step)
        await asyncio.sleep(0)

    asyncio.run(play())
    return recorder


def test_a_head_and_its_body_are_sent_together() -> None:
    assert played(b"head", b"body", b"more").sent == [b"headbody", b"more"]


def test_a_head_does_not_wait_for_a_body_that_comes_later() -> None:
    assert played(b"head", None, b"body").sent == [b"head", b"body"]
    assert played(b"head").sent == [b"head"]


def test_a_head_is_sent_before_the_connection_closes() -> None:
    recorder = played(b"head", "close")
    assert recorder.sent == [b"head"] and recorder.closed
