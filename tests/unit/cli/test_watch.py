"""`batch status --watch` on a terminal of 80 columns."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
import unicodedata
from pathlib import Path

from batch.errors import BadRequest
from batch.payloads.embedding import EmbeddingPayload
from batch.queue.jobs import Draft, Kind, Origin, Priority, State
from batch.queue.open_store import open_store
from one_worker import OneWorker
from paths import ROOT

COLUMNS = 80
_SGR = re.compile(r"\x1b\[([0-9;]*)m")
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def read_until(terminal: int, text: str, times: int) -> str:
    """What a program wrote on its terminal until a text stood there so often."""
    seen, deadline = "", time.monotonic() + 30
    while seen.count(text) < times:
        assert time.monotonic() < deadline, f"{text!r} is not there {times} times: {seen!r}"
        if select.select([terminal], [], [], 0.2)[0]:
            with contextlib.suppress(OSError):
                seen += os.read(terminal, 1 << 16).decode("utf-8", "replace")
    return seen


def width(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in line)


def test_watching_on_a_terminal_fits_80_columns_tells_the_last_failures_and_needs_no_colour(home: Path) -> None:
    store = OneWorker(open_store(home / ".batch" / "batch.db"))
    for name in ("trip/a very long name of a picture that nobody would want to read to its end in a list.jpg", "文件" * 30):
        draft = Draft(EmbeddingPayload(inputs=["x"]), Origin.INBOX, Priority.INBOX, source=name)
        store.submit(draft)
        assert store.take(Kind.EMBEDDING) is not None
        store.end(draft.id, State.FAILED, error=BadRequest(f"{name} is damaged\x1b[2J: drop it again.").record())
    store.submit(Draft(EmbeddingPayload(inputs=["x"]), Origin.INBOX, Priority.INBOX, source="waits.txt"))
    store.close()
    terminal, program = pty.openpty()
    fcntl.ioctl(program, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    with subprocess.Popen(
        [sys.executable, "-m", "batch", "status", "--watch", "--every", "0.1"],
        cwd=home,
        env={**environment, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)},
        stdin=program,
        stdout=program,
        stderr=program,
    ) as process:
        os.close(program)
        try:
            seen = read_until(terminal, "Ctrl-C ends", 3)
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    os.close(terminal)
    assert all(set(codes[1].split(";")) <= {"", "0", "1", "2"} for codes in _SGR.finditer(seen)), "bold and dim, no colours"
    plain = _ESCAPE.sub("", seen)
    lines = re.split(r"[\r\n]+", plain)
    assert max(map(width, lines)) <= COLUMNS
    for text in ("not running", "1 inbox", "last failures", "embedding", "inbox:"):
        assert text in plain, plain
    assert "trip/a very long name" in plain and "\x1b[2J" not in seen, "a name cannot clear the screen"
