"""Opening what lies below a folder that others may write to, without being led out of it and without waiting.

No link below the folder is followed, no FIFO is waited for, and folders are held by descriptor, so that whoever renames or
replaces one meanwhile leads nobody elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import stat

import msgspec

from batch.durable_folder import sync_folder

_INT64 = (1 << 63) - 1
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class FileStamp(msgspec.Struct, frozen=True):
    """Tells one state of a file from the next; times in nanoseconds."""

    size: int
    mtime_ns: int
    inode: int
    ctime_ns: int

    @staticmethod
    def of(status: os.stat_result) -> FileStamp:
        """The stamp of a file whose status was read."""
        # Some network file systems have inode numbers of 64 bits; SQLite's integers have 63 and a sign.
        return FileStamp(status.st_size, status.st_mtime_ns, status.st_ino & _INT64, status.st_ctime_ns)

    def has_same_content(self, other: FileStamp) -> bool:
        """Whether size, time and inode are equal; a change of rights or of links alone does not count."""
        return (self.size, self.mtime_ns, self.inode) == (other.size, other.mtime_ns, other.inode)


def open_below(root: str | int, path: str, flags: int = os.O_RDONLY) -> int:
    """Open a path relative to a folder (its path or descriptor); returns a descriptor that the client closes.

    No link below `root` is followed: meeting one raises OSError (ELOOP or ENOTDIR).
    """
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    *folders, name = path.split("/")
    here = os.open(root, FOLDER_FLAGS) if isinstance(root, str) else os.dup(root)
    try:
        for folder in folders:
            inner = os.open(folder, FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = inner
        return os.open(name or ".", flags, dir_fd=here)
    finally:
        os.close(here)


def open_folder_below(root: str | int, path: str) -> int:
    """As `open_below`, for a folder; "" is `root` itself."""
    return open_below(root, path, FOLDER_FLAGS)


def make_folder_below(root: str | int, path: str, mode: int) -> int:
    """Open a folder below `root`, making it and those above it where they are missing; new ones are on disk afterwards.

    Returns a descriptor that the client closes. Raises OSError where a link or a file stands in the way.
    """
    here = os.open(root, FOLDER_FLAGS) if isinstance(root, str) else os.dup(root)
    try:
        for name in path.split("/") if path else []:
            try:
                inner = os.open(name, FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=here)
            except FileNotFoundError:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, mode, dir_fd=here)
                    sync_folder(here)
                inner = os.open(name, FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = inner
        return os.dup(here)
    finally:
        os.close(here)


def is_regular_file(folder: int, name: str) -> bool:
    """Whether a regular file of this name lies in an open folder; links are none."""
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False
