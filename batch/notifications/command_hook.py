"""The command that the home's owner has run for every event: an argument list, no shell, the event on standard input."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

TIMEOUT_S = 60.0
NICENESS = 10
MAX_ERROR_BYTES = 2000


class CommandEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a run of the command ended."""

    status: int | None
    """Exit status, negative for a signal; None where it did not start, or ran past its time."""
    error: str
    """The end of its standard error, or why it did not start."""


def run_command(arguments: Sequence[str], event: bytes, variables: Mapping[str, str], home: Path) -> CommandEnd:
    """Run the command, `TIMEOUT_S` at most, and end all that it started when that is over. Blocking."""
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as source:
        source.write(event)
        source.seek(0)
        try:
            process = subprocess.Popen(
                list(arguments),
                stdin=source,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd=home,
                env={**os.environ, **variables},
                start_new_session=True,
            )
        except OSError as error:
            return CommandEnd(status=None, error=f"{arguments[0]} cannot be run: {error.strerror}")
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
        try:
            status: int | None = process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        size = errors.seek(0, os.SEEK_END)
        errors.seek(max(0, size - MAX_ERROR_BYTES))
        text = errors.read().decode("utf-8", "replace").strip()
    return CommandEnd(status=status, error=text if status is not None else f"it ran past {TIMEOUT_S:.0f} seconds; {text}")
