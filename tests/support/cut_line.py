"""A TCP line between two processes that a test can cut, freeze or take away."""

from __future__ import annotations

import contextlib
import socket
import threading


class CutLine:
    """Listens on a port of 127.0.0.1 that stays the same, and passes all on to another."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.target = ""
        """host:port."""
        self.is_swallowing = False
        """What is sent is lost from now on, as on a line of which nobody knows yet that it is cut."""
        self.connections = 0
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                try:
                    host, _, port = self.target.rpartition(":")
                    far = socket.create_connection((host, int(port)), 5)
                except (OSError, ValueError):
                    near.close()
                    continue
                far.settimeout(None)
                with self._lock:
                    self.connections += 1
                    self._pairs.append((near, far))
                threading.Thread(target=self._join, args=(near, far), daemon=True).start()

    def _join(self, near: socket.socket, far: socket.socket) -> None:
        back = threading.Thread(target=self._pass, args=(far, near), daemon=True)
        back.start()
        self._pass(near, far)
        back.join()
        near.close()
        far.close()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if not self.is_swallowing:
                    sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Hang up at both ends."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self.is_swallowing = False

    def take_away(self) -> None:
        """Nobody listens any more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def bring_back(self) -> None:
        host, _, port = self.address.rpartition(":")
        self._listener = socket.create_server((host, int(port)))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        self.take_away()
