"""One service a home, and ports that are its own."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Generator, Iterator
from pathlib import Path

from batch.errors import AlreadyRunning, BatchError, DiskFull
from batch.queue.jobs import Kind
from batch.settings import Settings

LISTEN_BACKLOG = 2048


@contextlib.contextmanager
def only_instance(settings: Settings) -> Iterator[None]:
    """Hold the home's lock file. Raises AlreadyRunning with the other's pid, DiskFull."""
    path = settings.state_dir / "run" / "service.lock"
    with write_errors(settings.home):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with open(descriptor, "r+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = file.read().decode() or "unknown"
            raise AlreadyRunning(
                f"batch is already running in {settings.home} (pid {pid}): stop it first, or use another --home."
            ) from None
        with write_errors(settings.home):
            file.truncate(0)
            file.write(str(os.getpid()).encode())
        yield


@contextlib.contextmanager
def write_errors(home: Path) -> Generator[None]:
    """A home that takes no writes is reported in one sentence, as DiskFull."""
    try:
        yield
    except OSError as error:
        raise DiskFull(
            f"{error.filename or home} cannot be written ({error.strerror}): look after its disk, or use another --home."
        ) from error


def listen(kind: Kind, port: int) -> socket.socket:
    """A socket on 127.0.0.1, never on another address. Raises AlreadyRunning that names the port, or BatchError."""
    # The protocol is named because asyncio switches Nagle's delay off (40 ms a response) only where it is.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(("127.0.0.1", port))
        sock.listen(LISTEN_BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise AlreadyRunning(
                f"Port {port} ({kind}) is in use by another program: stop that, or set {kind}.port in batch.toml."
            ) from None
        raise BatchError(f"Port {port} ({kind}) cannot be opened: {error.strerror}.") from None
    return sock
