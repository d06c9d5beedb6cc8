"""The id of an inbox, under which the ledger knows its files: one folder has one, whichever service watches it."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from pathlib import Path

from batch.errors import DiskFull

MARK_NAME = ".batch-inbox"
"""The file in an inbox that says its id: hidden, so that it is no file to be worked on."""
REMEMBERED_NAME = "inbox_id"
"""The file in a home's state folder that says which inbox it watched last, where that is not its own."""
_ID = re.compile(r"[0-9a-f]{16}")
_MAX_MARK_BYTES = 64


def inbox_id(state_dir: Path) -> str:
    """The id of a home's inbox as it was when its service started last; empty where that is the home's own id."""
    return _read(state_dir / REMEMBERED_NAME)


def recognise_inbox(inbox: Path, state_dir: Path, home: str) -> str:
    """The id of the folder that a home's service is about to watch: what is written in it, or else the home's own, which is
    written into it for others that see the same folder. Remembered for the home's commands. Raises DiskFull."""
    mark = _read(inbox / MARK_NAME)
    if not mark:
        mark = inbox_id(state_dir) or home
        with contextlib.suppress(OSError):  # a folder that takes no writes is shared by nobody who could tell
            _write_mark(inbox, mark)
        mark = _read(inbox / MARK_NAME) or mark  # another was faster, it may be
    path = state_dir / REMEMBERED_NAME
    try:
        if mark == home:
            path.unlink(missing_ok=True)
        elif mark != inbox_id(state_dir):
            partial = path.with_name(f".inbox_id.{os.getpid()}")
            partial.write_text(mark)
            os.replace(partial, path)
    except OSError as error:
        raise DiskFull(f"{path} cannot be written ({error.strerror}): look after its disk.") from error
    return mark


def _write_mark(inbox: Path, mark: str) -> None:
    """Write the id into a folder that has none yet: whole or not at all, as a home that came upon an empty file would take the
    folder for one of its own."""
    partial = inbox / f"{MARK_NAME}.{secrets.token_hex(8)}"
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with open(descriptor, "w") as file:
            file.write(mark)
        try:
            os.link(partial, inbox / MARK_NAME)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if not (inbox / MARK_NAME).exists():
                os.replace(partial, inbox / MARK_NAME)
    finally:
        partial.unlink(missing_ok=True)


def _read(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    with open(descriptor, "rb") as file:
        try:
            text = file.read(_MAX_MARK_BYTES).decode("ascii", "replace").strip()
        except OSError:
            return ""
    return text if _ID.fullmatch(text) else ""
