"""A proxy on the loopback address in front of a server's Unix socket, which can be frozen: the line stays whole, and silent."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from postgres_server import PostgresServer


class FrozenProxy:
    """Passes bytes on, but for the time that it is frozen."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._moves = {"to": threading.Event(), "from": threading.Event()}
        self.thaw()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listening]
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, url: str) -> str:
        """The address of a database of the server, through the proxy."""
        name = url.partition("@/")[2].partition("?")[0]
        return f"postgresql://{self._server.user}@127.0.0.1:{self._listening.getsockname()[1]}/{name}?sslmode=disable"

    def freeze(self, *directions: str) -> None:
        """Pass nothing on "to" the server, or "from" it; neither where none is named."""
        for direction in directions or ("to", "from"):
            self._moves[direction].clear()

    def thaw(self) -> None:
        for moves in self._moves.values():
            moves.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listening.accept()
                server = socket.socket(socket.AF_UNIX)
                self._sockets += [client, server]
                try:
                    server.connect(f"{self._server.folder}/.s.PGSQL.5432")
                except OSError:
                    client.close()
                    continue
                for source, target, direction in ((client, server, "to"), (server, client, "from")):
                    threading.Thread(target=self._pass_on, args=(source, target, direction), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, direction: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self._moves[direction].wait()
                target.sendall(data)
        self._moves[direction].wait()
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.thaw()
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextlib.contextmanager
def frozen_proxy(server: PostgresServer) -> Iterator[FrozenProxy]:
    """A proxy for as long as it is needed."""
    proxy = FrozenProxy(server)
    try:
        yield proxy
    finally:
        proxy.close()
