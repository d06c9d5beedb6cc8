"""What lies at a path of the inbox, seen without opening it."""

from __future__ import annotations

import os
import stat

import msgspec

from batch.folder.safe_open import FileStamp


class InboxEntry(msgspec.Struct, frozen=True):
    """A file, or what stands in a file's place, with the reason why it cannot be taken."""

    stamp: FileStamp
    target: str
    """The path to open, below the inbox: the entry's own, or where a link leads."""
    problem: str | None = None
    """Completes the sentence "NAME …" ."""


def inspect(root: str, path: str) -> InboxEntry | None:
    """Look at a path below the inbox without opening it; None where nothing is, and for folders.

    A link counts as the file it leads to, as long as that lies below `root` too. Raises OSError for what may not be seen.
    """
    try:
        status = os.lstat(f"{root}/{path}")
        if not stat.S_ISLNK(status.st_mode):
            return _regular(status, path)
        real, top = os.path.realpath(f"{root}/{path}"), os.path.realpath(root)
        if real != top and not real.startswith(top.rstrip("/") + "/"):
            return InboxEntry(FileStamp.of(status), path, "is a link that leads out of the inbox: drop the file itself")
        try:
            return _regular(os.lstat(real), os.path.relpath(real, top))
        except FileNotFoundError:
            return InboxEntry(FileStamp.of(status), path, "is a link that leads nowhere: drop the file itself")
    except (FileNotFoundError, NotADirectoryError):
        return None


def _regular(status: os.stat_result, target: str) -> InboxEntry | None:
    if stat.S_ISDIR(status.st_mode):
        return None
    stamp = FileStamp.of(status)
    if stat.S_ISREG(status.st_mode):
        return InboxEntry(stamp, target)
    kind = next((name for is_kind, name in _SPECIAL if is_kind(status.st_mode)), "special file")
    return InboxEntry(stamp, target, f"is a {kind}, not a file")


_SPECIAL = (
    (stat.S_ISFIFO, "named pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
    (stat.S_ISLNK, "link"),
)
