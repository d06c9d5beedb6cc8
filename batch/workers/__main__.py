"""`python -m batch.workers KIND`: one worker process. The supervisor starts it, with the settings on standard input."""

from __future__ import annotations

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
from batch.queue.jobs import Kind
from batch.settings import Settings

BROKEN = 3
"""Exit status when the model cannot be loaded: tried again with a longer pause than a crash."""
_LAST_DEED = 5.0
"""Seconds that putting back the running job may take once the supervisor is gone."""


def main() -> int:
    kind = Kind(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the whole group; the supervisor decides
    settings = Settings.model_validate_json(_first_line())
    fail_points.arm(settings.fail_at, settings.state_dir)
    last_deeds: list[Callable[[], None]] = []
    threading.Thread(target=_end_with_supervisor, args=(last_deeds,), name="supervisor", daemon=True).start()
    to_supervisor = logging.StreamHandler(sys.stderr)
    to_supervisor.setFormatter(WorkerFormatter())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[to_supervisor])
    # huey logs a line a job at INFO; ours says the same in the job's row.
    logging.getLogger("huey").setLevel(logging.WARNING)
    lock = _only_one(settings, kind)

    from batch.workers.engine_factory import build, load_native_library

    load_native_library(kind, settings)  # before anything else that is compiled

    from batch.workers.worker import Worker

    try:
        worker = Worker(kind, settings, build(kind, settings))
    except BatchError as error:
        print(error.message, file=sys.stderr)
        return BROKEN
    last_deeds.append(worker.abandon)
    signal.signal(signal.SIGTERM, lambda *_: worker.stop(settings.queue.grace))
    worker.run()
    os.close(lock)
    sys.stderr.flush()
    # Not through the interpreter's own end: the C libraries' callbacks and threads outlive what they refer to there.
    os._exit(0 if worker.loaded.is_set() else BROKEN)


def _end_with_supervisor(last_deeds: Sequence[Callable[[], None]]) -> None:
    """The supervisor holds the other end of standard input: when it is gone, however it went, so are we."""
    while os.read(0, 4096):
        pass
    for deed in last_deeds:
        # Beside us, as nothing may keep this process from ending.
        thread = threading.Thread(target=deed, daemon=True)
        thread.start()
        thread.join(_LAST_DEED)
    os._exit(0)


def _first_line() -> bytes:
    """The settings. Unbuffered: a reader that holds a buffer's lock when the interpreter ends is a fatal error."""
    line = b""
    while not line.endswith(b"\n") and (piece := os.read(0, 65536)):
        line += piece
    return line


def _only_one(settings: Settings, kind: Kind) -> int:
    """Hold the queue's lock file; wait for a predecessor that is just ending."""
    path = settings.state_dir / "run" / f"{kind}.lock"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + 30
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                sys.exit(f"Another process serves the {kind} queue in {settings.home}: end it first.")
            time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
