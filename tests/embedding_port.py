"""The embedding port alone: hub, app and one real worker process, on a thread of the test's process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn

from batch.api.app import create_app
from batch.queue.hub import Hub
from batch.queue.jobs import Kind
from batch.queue.spool import Spool
from batch.queue.store import Store
from batch.settings import Settings


@dataclass
class Port:
    url: str
    settings: Settings


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(settings: Settings, listening: socket.socket, stop: asyncio.Event, started: threading.Event) -> None:
    (settings.state_dir / "run").mkdir(parents=True)
    store = Store(settings.database)
    hub = Hub(store, Spool(settings.state_dir / "spool"), settings.state_dir)
    await hub.start()
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "batch.workers", "embedding", stdin=asyncio.subprocess.PIPE,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
    )  # fmt: skip
    assert worker.stdin is not None
    worker.stdin.write(settings.model_dump_json().encode() + b"\n")
    app = create_app(Kind.EMBEDDING, hub, settings)
    server = _Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))
    serving = asyncio.create_task(server.serve([listening]))
    started.set()
    await stop.wait()
    worker.terminate()
    await asyncio.wait_for(worker.wait(), 30)
    await hub.close()
    server.should_exit = True
    await serving
    store.close()


@contextlib.contextmanager
def embedding_port(settings: Settings, deadline: float = 60.0) -> Iterator[Port]:
    """A port whose model is loaded."""
    stop = asyncio.Event()
    loop = asyncio.new_event_loop()
    started = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        # Accepted sockets inherit it. asyncio sets it itself only on sockets made with IPPROTO_TCP, and without it a
        # kept-alive connection waits 40 ms for the client's delayed acknowledgement.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        thread = threading.Thread(target=loop.run_until_complete, args=(_serve(settings, listening, stop, started),))
        thread.start()
        try:
            assert started.wait(deadline)
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            end = time.monotonic() + deadline
            while (answer := httpx.get(f"{url}/health")).status_code != 200:
                assert time.monotonic() < end, answer.text
                time.sleep(0.05)
            yield Port(url, settings)
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(60)
            loop.close()


def home(path: Path, model: Path) -> Settings:
    """Settings of a home whose embedding model is `model`, on one thread."""
    return Settings.model_validate({"home": path, "embedding": {"model": str(model), "threads": 1, "port": 0}})
