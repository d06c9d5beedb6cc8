"""Homes of one real database as their channels see it: fronts with a worker port, and machines with a worker's row."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

from batch.queue.jobs import Kind
from batch.queue.nodes import Node
from batch.queue.open_store import open_store
from batch.queue.remote.open_channel import PortSettings, open_channel
from batch.queue.remote.worker_port.channel import StreamChannel
from ears import Ears, until


class PlayedHome:
    """One end; `word` and the like of ears.py are what it sends."""

    def __init__(
        self,
        folder: Path,
        url: str,
        *,
        listen: str = "",
        address: str = "",
        is_front: bool = True,
        has_worker: bool = False,
        owner: str = "",
    ) -> None:
        """`address`: where its port is reached. `owner`: the database's address as its owner, where `url` has a role of its
        own."""
        self.id = secrets.token_hex(8)
        self.worker = secrets.token_hex(8)
        self.folder, self.url, self._owner = folder / self.id, url, owner or url
        self.ears = Ears()
        port = PortSettings(listen, address, self.folder) if is_front else None
        channel = open_channel(url, self.id, is_front=is_front, port=port)
        assert isinstance(channel, StreamChannel)
        self.channel = channel
        self.has_worker = has_worker or not is_front

    def open(self) -> PlayedHome:
        if self.has_worker:
            with contextlib.closing(open_store(self._owner)) as store:
                store.register(Node(self.worker, Kind.VLM, Kind.VLM, "ready", home=self.id))
        self.channel.open(self.ears.receiver())
        return self

    @property
    def bound_address(self) -> str:
        """Where its port really listens."""
        port = self.channel._port
        assert port is not None and port._socket is not None
        return f"127.0.0.1:{port._socket.getsockname()[1]}"

    def is_joined_to(self, other: PlayedHome) -> bool:
        return self.channel._peer(other.id).has_stream and other.channel._peer(self.id).has_stream

    def wait_for_stream(self, other: PlayedHome) -> None:
        until(lambda: self.is_joined_to(other), "a stream between them")


class Notifications:
    """Counts what the database is told for one home: words that went through it."""

    def __init__(self, url: str, home: str) -> None:
        import psycopg

        self.payloads: list[str] = []
        self._conn = psycopg.connect(url, autocommit=True)
        self._conn.execute(f'listen "batch_{home}"'.encode())
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._is_closed.is_set():
            self.payloads += [notify.payload for notify in self._conn.notifies(timeout=0.1) if notify.payload]

    def close(self) -> None:
        self._is_closed.set()
        self._thread.join(5)
        self._conn.close()


@contextlib.contextmanager
def counted(url: str, home: str) -> Iterator[Notifications]:
    notifications = Notifications(url, home)
    try:
        yield notifications
    finally:
        notifications.close()
