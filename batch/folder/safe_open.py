"""Opening what lies below a folder without being led out of it, and telling whether a file stands still."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

_INT64 = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells one state of a file from the next."""

    size: int
    mtime_ns: int
    inode: int
    ctime_ns: int

    @staticmethod
    def of(found: os.stat_result) -> Stamp:
        # Some network file systems have inode numbers of 64 bits; SQLite's integers have 63 and a sign.
        return Stamp(found.st_size, found.st_mtime_ns, found.st_ino & _INT64, found.st_ctime_ns)

    def same(self, other: Stamp) -> bool:
        """Whether the content must still be the same; a mere change of rights or of links does not count."""
        return (self.size, self.mtime_ns, self.inode) == (other.size, other.mtime_ns, other.inode)


def open_below(root: str, path: str, flags: int = os.O_RDONLY) -> int:
    """Open a path relative to `root`, following no link below it and waiting for no FIFO; the caller closes it."""
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    *folders, name = path.split("/")
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = inner
        return os.open(name or ".", flags, dir_fd=here)
    finally:
        os.close(here)


@dataclass(frozen=True, slots=True)
class Found:
    """What lies at a path: its stamp, and why it cannot be taken, if so."""

    stamp: Stamp
    target: str
    """The path to open: the path itself, or what a link inside the root leads to."""
    problem: str | None = None


def find(root: str, path: str) -> Found | None:
    """Look at a path below `root` without opening it; None for nothing, and for folders.

    A link counts as the file it leads to, as long as that lies below `root` too.
    """
    try:
        found = os.lstat(f"{root}/{path}")
        if not stat.S_ISLNK(found.st_mode):
            return _regular(found, path)
        real, top = os.path.realpath(f"{root}/{path}"), os.path.realpath(root)
        if real != top and not real.startswith(top.rstrip("/") + "/"):
            return Found(Stamp.of(found), path, "is a link that leads out of the inbox: drop the file itself")
        try:
            return _regular(os.lstat(real), os.path.relpath(real, top))
        except FileNotFoundError:
            return Found(Stamp.of(found), path, "is a link that leads nowhere: drop the file itself")
    except (FileNotFoundError, NotADirectoryError):
        return None


def _regular(found: os.stat_result, target: str) -> Found | None:
    if stat.S_ISDIR(found.st_mode):
        return None
    if stat.S_ISREG(found.st_mode):
        return Found(Stamp.of(found), target)
    for test, name in _SPECIAL:
        if test(found.st_mode):
            return Found(Stamp.of(found), target, f"is a {name}, not a file")
    return Found(Stamp.of(found), target, "is not a regular file")


_SPECIAL = (
    (stat.S_ISFIFO, "named pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
    (stat.S_ISLNK, "link"),
)
