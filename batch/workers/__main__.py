"""`python -m batch.workers QUEUE WORKER LOG LAST_DEATH [TAKES]`: one worker process.

The supervisor starts it, with the settings on standard input. WORKER is its id, random at each start; LOG a descriptor for log
records; LAST_DEATH says what ended the worker before it, if it died; TAKES is "interactive" for one that leaves bulk work to
others.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
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
from batch.settings import Settings

_PUT_BACK_TIMEOUT_S = 5.0
"""Once the supervisor is gone, putting back the running job may take so long."""
_LOCK_TIMEOUT_S = 30.0
_MAX_ID_BYTES = 64
_LOCK_POLL_INTERVAL_S = 0.05


def main() -> int:
    queue, worker_id = sys.argv[1], sys.argv[2]
    kind = kind_of(queue)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the whole group; the supervisor decides
    settings = Settings.model_validate_json(_first_line())
    fail_points.arm(settings.fail_at, settings.state_dir)
    last_deeds: list[Callable[[], None]] = []
    threading.Thread(target=_end_with_supervisor, args=(last_deeds,), name="supervisor", daemon=True).start()
    # A pipe of its own: libraries write what they like to standard error, and may echo what a client sent.
    log_pipe = os.fdopen(int(sys.argv[3]), "w", encoding="utf-8", errors="backslashreplace")
    to_supervisor = logging.StreamHandler(log_pipe)
    to_supervisor.setFormatter(WorkerFormatter())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[to_supervisor])
    # huey logs a line a job at INFO; ours says the same in the job's row.
    logging.getLogger("huey").setLevel(logging.WARNING)
    lock, predecessor = _only_one(settings, queue, worker_id)

    try:
        from batch.workers.engine_factory import build, load_native_library

        load_native_library(kind, settings)  # before anything else that is compiled

        from batch.workers.worker import Worker

        worker = Worker(
            queue,
            settings,
            build(kind, settings),
            worker_id=worker_id,
            predecessor=predecessor,
            last_death=sys.argv[4],
            takes="interactive" if sys.argv[5:] == ["interactive"] else "all",
        )
    except BatchError as error:
        return _report_broken(queue, worker_id, settings, error.message)
    except Exception as error:
        logging.getLogger("batch.worker").exception("the %s worker cannot start", queue)
        reason = f"{type(error).__name__}: {error}".rstrip(".")
        sentence = f"The {queue} worker cannot start ({reason}): `batch doctor` says more."
        return _report_broken(queue, worker_id, settings, sentence)
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


def _only_one(settings: Settings, queue: str, worker_id: str) -> tuple[int, str]:
    """Hold the queue's lock file, and wait for a predecessor that is just ending; the file's descriptor, and the id of the
    worker that held it before."""
    path = settings.state_dir / "run" / f"{queue}.lock"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            predecessor = os.pread(descriptor, _MAX_ID_BYTES, 0).decode("ascii", "replace")
            _write_id(descriptor, worker_id)
            return descriptor, predecessor
        except BlockingIOError:
            if time.monotonic() > deadline:
                sys.exit(f"Another process serves the {queue} queue in {settings.home}: end it first.")
            time.sleep(_LOCK_POLL_INTERVAL_S)


def _write_id(lock: int, worker_id: str) -> None:
    """Under this name a successor finds what this process leaves behind, should it die."""
    with contextlib.suppress(OSError):  # a full disk: its leases run out, or all of the home's are recovered
        os.ftruncate(lock, 0)
        os.pwrite(lock, worker_id.encode(), 0)


if __name__ == "__main__":
    sys.exit(main())
