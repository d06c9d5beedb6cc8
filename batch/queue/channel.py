"""Local sockets: datagrams that wake a worker, and the stream that carries events to the supervisor and questions back.

Datagrams are hints (a lost one costs one read time-out), or hold a job whose claim the database has; the stream's frames are
JSON objects, one a line.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from batch.errors import Unavailable
from batch.payloads.json_text import decode, encode
from batch.queue.frames import Ask, Handed, RowChanged, WorkerFrame
from batch.queue.jobs import Lease
from batch.queue.latest import Latest

logger = logging.getLogger("batch.queue")

# sun_path holds 108 bytes on Linux, 104 on macOS, the closing NUL included.
_MAX_PATH_BYTES = 100

WAKE = b"w"
"""Something was queued, or something about the running job changed: look."""
MAX_HANDED_BYTES = 64 << 10
"""Of a datagram that holds a job."""


def socket_path(state_dir: Path, name: str) -> Path:
    """Where a socket of this home lies: in its state folder, or under the temporary folder when that path is too long."""
    path = state_dir / "run" / name
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        tag = hashlib.sha256(os.fsencode(state_dir)).hexdigest()[:16]
        path = Path(tempfile.gettempdir()) / f"batch-{os.getuid()}-{tag}" / name
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.is_relative_to(state_dir):
        # Under the temporary folder anybody may have put something there first, a link to elsewhere, say.
        status = path.parent.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise Unavailable(
                f"{path.parent} is not a folder of this user's own: remove it, or use a home folder with a shorter path."
            )
        path.parent.chmod(0o700)
    return path


class Waker:
    """Sends wake-ups to the workers of queues. Never blocks: a full socket is already awake, a missing one will look."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._paths = Latest[str, str]()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < 2 * MAX_HANDED_BYTES:  # as on macOS: 2,048
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MAX_HANDED_BYTES)

    def wake(self, queue: str) -> None:
        """Let a queue's worker look."""
        with contextlib.suppress(BlockingIOError, FileNotFoundError, ConnectionRefusedError):
            self._socket.sendto(WAKE, self._path(queue))

    def hand(self, worker: str, lease: Lease) -> bool:
        """Give a worker a job that is leased to it; False where it cannot be reached now, and does not hear of it."""
        data = encode(Handed(worker=worker, lease=lease))
        if len(data) > MAX_HANDED_BYTES:
            return False
        try:
            self._socket.sendto(data, self._path(lease.job.queue))
        except OSError:
            return False
        return True

    def _path(self, queue: str) -> str:
        path = self._paths.get(queue)
        if path is None:
            path = self._paths[queue] = str(socket_path(self._state_dir, f"{queue}.wake"))
        return path

    def close(self) -> None:
        self._socket.close()


class WakeListener:
    """A worker's end of the wake-ups: calls back from a thread of its own."""

    def __init__(
        self, state_dir: Path, queue: str, woken: Callable[[], None], handed: Callable[[Handed], None] = lambda job: None
    ) -> None:
        """`handed` gets each job that came in place of a wake-up."""
        path = socket_path(state_dir, f"{queue}.wake")
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        os.chmod(path, 0o600)
        self._woken, self._handed = woken, handed
        threading.Thread(target=self._listen, name="wake", daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                data = self._socket.recv(MAX_HANDED_BYTES)
            except OSError as error:
                if error.errno == errno.EINTR:
                    continue
                return
            try:
                if data == WAKE:
                    self._woken()
                else:
                    self._handed(decode(data, Handed))
            except Exception:  # whoever sends would never learn that nobody listens any more
                logger.exception("a worker did not act on what it was told")


GATHER_S = 0.02
"""Seconds over which a fast generation's tokens are sent together: fifty times a second is more often than anybody sees."""


class EventStream:
    """A worker's connection to the supervisor. `send` may be called from any thread."""

    def __init__(self, state_dir: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(socket_path(state_dir, "events")))
        self._lock = threading.Lock()
        self._buffered: list[bytes] = []
        self._sent_at = 0.0

    def send(self, *frames: WorkerFrame) -> None:
        """Send frames now, behind those that were posted; each time wakes the supervisor."""
        with self._lock:
            self._buffered += map(encode, frames)
            self._flush()

    def post(self, frame: WorkerFrame) -> None:
        """Send a frame now, or with the next one when the last went less than `GATHER_S` ago.

        Each frame wakes the supervisor and its reader, on cores that a fast model wants for itself.
        """
        with self._lock:
            self._buffered.append(encode(frame))
            if time.monotonic() - self._sent_at >= GATHER_S:
                self._flush()

    def hold(self, frame: WorkerFrame) -> None:
        """Send a frame with the next one, or from the first `hurry` on that comes `GATHER_S` later."""
        with self._lock:
            if not self._buffered:
                self._sent_at = time.monotonic()
            self._buffered.append(encode(frame))

    def hurry(self, now: float) -> None:
        """Between two steps: what was posted more than `GATHER_S` ago must not wait for a slow one."""
        if self._buffered and now - self._sent_at >= GATHER_S:
            with self._lock:
                self._flush()

    def _flush(self) -> None:
        if not self._buffered:
            return
        data = b"\n".join(self._buffered) + b"\n"
        self._buffered.clear()
        self._sent_at = time.monotonic()
        # A supervisor that is gone is noticed elsewhere (its pipe closes), so here it is no error.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(data)

    def questions(self) -> Iterator[Ask]:
        """What the supervisor asks, until it closes."""
        with self._socket.makefile("rb") as lines, contextlib.suppress(ConnectionResetError):
            for line in lines:
                yield decode(line, Ask)


def give_notice(state_dir: Path, job: str) -> None:
    """Tell a running service that another process (the command line) changed a job's row; nothing when none runs."""
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection,
    ):
        connection.settimeout(1.0)
        connection.connect(str(socket_path(state_dir, "events")))
        connection.sendall(encode(RowChanged(job=job)) + b"\n")
