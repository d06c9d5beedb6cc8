"""Folders and files that a power cut leaves where they are: a name is on disk once the folder that holds it was flushed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP})
"""What network shares answer that cannot put a folder on disk."""


def put_on_disk(path: Path) -> None:
    """Flush a file's bytes, or a folder's entries. Raises OSError, but where the file system flushes no folders."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sync_folder(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(descriptor: int) -> None:
    """Put a folder's entries on disk; does nothing where the file system has no such thing."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def make_durable_folder(path: Path, mode: int = 0o777) -> None:
    """Make a folder and those above it that are missing; the new ones are on disk afterwards. Raises OSError."""
    if path.is_dir():
        return
    if path.parent != path:
        make_durable_folder(path.parent, mode)
    path.mkdir(mode=mode, exist_ok=True)
    put_on_disk(path.parent)
