"""The command that the home's owner has run for every event: an argument list, no shell, the event on standard input."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from batch.notifications import command_guard

TIMEOUT_S = 60.0
MAX_ERROR_BYTES = 2000


class CommandEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a run of the command ended."""

    status: int | None
    """Exit status, negative for a signal; None where it ran past its time."""
    error: str
    """The end of its standard error, or why it did not start."""


def run_command(arguments: Sequence[str], event: bytes, variables: Mapping[str, str], home: Path) -> CommandEnd:
    """Run the command, `TIMEOUT_S` at most; with its time, or with this process, ends all that it started. Blocking."""
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as source, _life_line() as (guarded, held):
        source.write(event)
        source.seek(0)
        try:
            guard = subprocess.Popen(
                [sys.executable, "-I", "-S", command_guard.__file__, str(guarded.fileno()), *arguments],
                stdin=source,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd=home,
                env={**os.environ, **variables},
                pass_fds=(guarded.fileno(),),
                start_new_session=True,
            )
        except OSError as error:
            return CommandEnd(status=None, error=f"{sys.executable} cannot be run: {error.strerror}")
        try:
            status: int | None = guard.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            held.close()
            guard.wait()
        size = errors.seek(0, os.SEEK_END)
        errors.seek(max(0, size - MAX_ERROR_BYTES))
        text = errors.read().decode("utf-8", "replace").strip()
    return CommandEnd(status=status, error=text if status is not None else f"it ran past {TIMEOUT_S:.0f} seconds; {text}")


@contextlib.contextmanager
def _life_line() -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Both ends of a pipe that nobody else holds."""
    guarded, held = os.pipe()
    with open(guarded, "rb") as reading, open(held, "wb") as writing:
        yield reading, writing
