"""The page on a real socket, in a thread of this process, for browsers; workers answer from a script."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn

from batch.api.http.http_protocol import protocol
from page_stage import PageStage, page_staged


class PageServer:
    """A running page; `call` runs something on its loop."""

    def __init__(self) -> None:
        self.url = ""
        self.stage: PageStage | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None

    def call(self, work: Callable[[PageStage], Any]) -> Any:
        """What a coroutine of the stage gives."""
        assert self._loop is not None and self.stage is not None
        return asyncio.run_coroutine_threadsafe(work(self.stage), self._loop).result(60)

    async def run(self, home: Path, ready: threading.Event) -> None:
        """Serve until `stop`."""
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        async with page_staged(home) as stage:
            stage.hub.models.update("embedding", status="failed", error="no vectors here")
            self.stage = stage
            with socket.create_server(("127.0.0.1", 0)) as listening:
                self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
                config = uvicorn.Config(
                    stage.app,
                    log_config=None,
                    lifespan="off",
                    http=protocol(stage.settings.limits),
                    timeout_graceful_shutdown=2,
                )
                server = uvicorn.Server(config)
                server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
                serving = asyncio.create_task(server.serve([listening]))
                ready.set()
                while not self._end.is_set():
                    stage.work()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._end.wait(), 0.05)
                await stage.page.stop()
                server.should_exit = True
                await serving

    def stop(self) -> None:
        assert self._loop is not None and self._end is not None
        self._loop.call_soon_threadsafe(self._end.set)


@contextlib.contextmanager
def page_served(home: Path) -> Iterator[PageServer]:
    """A page that is served until the block is left."""
    server, ready = PageServer(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(server.run(home, ready)), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield server
    finally:
        server.stop()
        thread.join(30)
