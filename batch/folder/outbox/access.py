"""Who may read what the outbox holds: the setting `outbox.access`, not the umask that the service was started with."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from batch.durable_folder import put_on_disk
from batch.settings import Access

_FILE_MODES: dict[Access, int] = {"owner": 0o600, "group": 0o640, "all": 0o644}
_FOLDER_MODES: dict[Access, int] = {"owner": 0o700, "group": 0o750, "all": 0o755}


def share_file(descriptor: int, access: Access) -> None:
    """Set the rights of a new file."""
    os.fchmod(descriptor, _FILE_MODES[access])


def make_folder(name: str, access: Access, *, dir_fd: int | None = None) -> None:
    """Make a folder with its rights; one that is there already keeps its own."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=dir_fd)
        os.chmod(name, _FOLDER_MODES[access], dir_fd=dir_fd)


def make_folders(path: Path, access: Access) -> None:
    """Make a folder and those above it that are missing; the new ones are on disk afterwards."""
    for folder in (*reversed(path.parents), path):
        if not folder.is_dir():
            make_folder(os.fspath(folder), access)
            put_on_disk(folder.parent)
