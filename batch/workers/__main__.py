"""`python -m batch.workers QUEUE LOG LAST_DEATH [TAKES]`: one worker process.

The supervisor starts it, with one line on standard input: the worker's secret, random at each start, of which its id is a hash;
a space; and the settings. LOG is a descriptor for log records; LAST_DEATH says what ended the worker before it, if it died;
TAKES is "interactive" for one that leaves bulk work to others.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence

from batch import fail_points
from batch.errors import BatchError
from batch.logs import WorkerFormatter
from batch.model_kind import kind_of
from batch.queue.frames import BROKEN_STATUS, Broken, Hello
from batch.queue.nodes import WorkerSecret
from batch.settings import Settings

_PUT_BACK_TIMEOUT_S = 5.0
"""Once the supervisor is gone, putting back the running job may take so long."""
_LOCK_TIMEOUT_S = 30.0
_MAX_SECRET_BYTES = 64
_SECRET = re.compile(r"[0-9a-f]{32}")
_LOCK_POLL_INTERVAL_S = 0.05


def main() -> int:
    queue = sys.argv[1]
    kind = kind_of(queue)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the whole group; the supervisor decides
    own_secret, _, line = _first_line().partition(b" ")
    settings = Settings.model_validate_json(line)
    fail_points.arm(settings.fail_at, settings.state_dir)
    last_deeds: list[Callable[[], None]] = []
    threading.Thread(target=_end_with_supervisor, args=(last_deeds,), name="supervisor", daemon=True).start()
    # A pipe of its own: libraries write what they like to standard error, and may echo what a client sent.
    log_pipe = os.fdopen(int(sys.argv[2]), "w", encoding="utf-8", errors="backslashreplace")
    to_supervisor = logging.StreamHandler(log_pipe)
    to_supervisor.setFormatter(WorkerFormatter())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[to_supervisor])
    # huey logs a line a job at INFO; ours says the same in the job's row.
    logging.getLogger("huey").setLevel(logging.WARNING)
    lock, secret = _only_one(settings, queue, own_secret.decode("ascii"))

    try:
        from batch.workers.engine_factory import build, load_native_library

        load_native_library(kind, settings)  # before anything else that is compiled

        from batch.workers.worker import Worker

        worker = Worker(
            queue,
            settings,
            build(kind, settings),
            secret=secret,
            last_death=sys.argv[3],
            takes="interactive" if sys.argv[4:] == ["interactive"] else "all",
        )
    except BatchError as error:
        return _report_broken(queue, secret.id, settings, error.message)
    except Exception as error:
        logging.getLogger("batch.worker").exception("the %s worker cannot start", queue)
        reason = f"{type(error).__name__}: {error}".rstrip(".")
        sentence = f"The {queue} worker cannot start ({reason}): `batch doctor` says more."
        return _report_broken(queue, secret.id, settings, sentence)
    last_deeds.append(worker.abandon)
    signal.signal(signal.SIGTERM, lambda *_: worker.stop(settings.queue.grace))
    worker.run()
    os.close(lock)
    logging.shutdown()
    sys.stderr.flush()
    # Not through the interpreter's own end: the C libraries' callbacks and threads outlive what they refer to there.
    os._exit(0 if worker.loaded.is_set() else BROKEN_STATUS)


def _report_broken(queue: str, worker_id: str, settings: Settings, sentence: str) -> int:
    """Tell the supervisor why there is no worker; the exit status."""
    from batch.queue.channel import EventStream

    events = EventStream(settings.state_dir)
    events.send(Hello(queue=queue, pid=os.getpid(), worker=worker_id))
    events.send(Broken(message=sentence))
    return BROKEN_STATUS


def _end_with_supervisor(last_deeds: Sequence[Callable[[], None]]) -> None:
    """The supervisor holds the other end of standard input: when it is gone, however it went, so are we."""
    while os.read(0, 4096):
        pass
    for deed in last_deeds:
        # Beside us, as nothing may keep this process from ending.
        thread = threading.Thread(target=deed, daemon=True)
        thread.start()
        thread.join(_PUT_BACK_TIMEOUT_S)
    os._exit(0)


def _first_line() -> bytes:
    """The settings. Unbuffered: a reader that holds a buffer's lock when the interpreter ends is a fatal error."""
    line = b""
    while not line.endswith(b"\n") and (piece := os.read(0, 65536)):
        line += piece
    return line


def _only_one(settings: Settings, queue: str, own_secret: str) -> tuple[int, WorkerSecret]:
    """Hold the queue's lock file, and wait for a predecessor that is just ending; the file's descriptor, and what the
    database is shown: by the secret that stood in the file the predecessor's leases are taken over."""
    path = settings.state_dir / "run" / f"{queue}.lock"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            predecessor = os.pread(descriptor, _MAX_SECRET_BYTES, 0).decode("ascii", "replace")
            _write_secret(descriptor, own_secret)
            return descriptor, WorkerSecret(own_secret, predecessor if _SECRET.fullmatch(predecessor) else "")
        except BlockingIOError:
            if time.monotonic() > deadline:
                sys.exit(f"Another process serves the {queue} queue in {settings.home}: end it first.")
            time.sleep(_LOCK_POLL_INTERVAL_S)


def _write_secret(lock: int, own_secret: str) -> None:
    """With it a successor gets what this process leaves behind, should it die."""
    with contextlib.suppress(OSError):  # a full disk: its leases run out, or all of the home's are recovered
        os.ftruncate(lock, 0)
        os.pwrite(lock, own_secret.encode(), 0)


if __name__ == "__main__":
    sys.exit(main())
