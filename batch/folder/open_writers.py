"""Whether somebody still has a file open for writing.

Linux tells it by leases: a read lease is refused while any descriptor of the file is open for writing. It does so for
files of one's own user (root: for all) on local disks. Elsewhere nobody knows.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from functools import lru_cache

_REMOTE = frozenset(
    {"9p", "afs", "ceph", "cifs", "coda", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "prl_fs", "smb2", "smb3", "smbfs"}
    | {"vboxsf", "virtiofs", "fuse", "fuseblk"}
)
"""File systems whose writers may be on another machine, so that a lease given or refused here says nothing."""


class Writers(Enum):
    """Who writes to a file."""

    NONE = "none"
    SOME = "some"
    UNKNOWN = "unknown"


def writers_of(descriptor: int) -> Writers:
    """Whether somebody has a file open for writing; `descriptor` is open for reading only."""
    with read_lease(descriptor) as writers:
        return writers


@contextmanager
def read_lease(descriptor: int) -> Iterator[Writers]:
    """Hold a lease on a file, if one is to be had: who opens it for writing meanwhile waits until it is given back.

    With Writers.NONE nobody writes for as long as the lease is held; `is_lease_whole` says whether somebody waits to.
    """
    if not hasattr(fcntl, "F_SETLEASE") or _is_remote(os.fstat(descriptor).st_dev, _minute()):
        yield Writers.UNKNOWN
        return
    try:
        # Whoever breaks the lease has a signal sent to us: one that is ignored by default, as SIGIO would end the process.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        yield Writers.SOME if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK) else Writers.UNKNOWN
        return
    try:
        yield Writers.NONE
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def is_lease_whole(descriptor: int) -> bool:
    """Whether nobody has tried to open the file for writing since the lease on it was taken."""
    return fcntl.fcntl(descriptor, fcntl.F_GETLEASE) == fcntl.F_RDLCK


@lru_cache(256)
def _is_remote(device: int, minute: int) -> bool:
    """Asked again every minute, as a device's number may be given to another mount."""
    return _file_systems().get(f"{os.major(device)}:{os.minor(device)}", "").split(".")[0] in _REMOTE


def _minute() -> int:
    return int(time.monotonic() // 60)


def _file_systems() -> dict[str, str]:
    """The type of each mounted file system by "major:minor" of its device."""
    types = {}
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                fields = line.split(" ")
                types[fields[2]] = fields[fields.index("-") + 1]
    except (OSError, ValueError, IndexError):
        pass
    return types
