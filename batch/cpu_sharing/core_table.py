"""Who computes now: a tiny table that all workers of this user share, from which each sets its thread count.

Three models that each start as many threads as there are cores ruin one another, because their thread pools spin at
barriers; sharing the cores makes a mixed load cost the sum of its parts (measured: docs in ARCHITECTURE.md).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import mmap
import os
import stat
import struct
import tempfile
import time
from collections.abc import Collection
from pathlib import Path

logger = logging.getLogger("batch.cpu_sharing")

_SLOT = struct.Struct("<qdd")
"""pid (0: free), weight (0: idle), time.monotonic() of the last sign of life."""
_SLOTS = 64
_STALE = 5.0
"""Seconds after which a busy entry is checked for a process that is gone."""
_MIN_BUSY_SHARE = 0.6
"""Of a core that other programs keep busy: then it is theirs. A program that wants all of one gets two thirds of it beside two
threads on two cores."""


def usable_numbers() -> Collection[int]:
    """The numbers of the cores this process may run on."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def usable() -> int:
    """How many cores this process may run on."""
    return len(usable_numbers())


class CoreTable:
    """One worker's view of the table; `threads` costs about a microsecond a busy neighbour."""

    def __init__(self, path: Path | None = None) -> None:
        path = path or Path(tempfile.gettempdir()) / f"batch-cores-{os.getuid()}"
        try:
            descriptor = _own(path)
        except OSError as error:
            # Anybody may put something there first: this worker then computes as if it were alone.
            logger.warning("%s cannot be used (%s): the workers do not share the cores", path, error.strerror)
            self._map = mmap.mmap(-1, _SLOT.size * _SLOTS)
            self._slot, self._cores, self._weight = self._claim(), usable(), 0.0
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_size < _SLOT.size * _SLOTS:
                os.ftruncate(descriptor, _SLOT.size * _SLOTS)
            self._map = mmap.mmap(descriptor, _SLOT.size * _SLOTS)
            self._slot = self._claim()
            # mmap keeps a duplicate of the descriptor, and with it the lock, so closing alone would not release it.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)
        self._cores = usable()
        self._weight = 0.0

    def _claim(self) -> int:
        for slot in range(_SLOTS):
            pid, _, _ = _SLOT.unpack_from(self._map, slot * _SLOT.size)
            if pid == 0 or pid == os.getpid() or not alive(pid):
                _SLOT.pack_into(self._map, slot * _SLOT.size, os.getpid(), 0.0, time.monotonic())
                return slot
        return -1  # more workers than slots: this one computes unseen

    def busy(self, weight: float) -> None:
        """This worker computes now; a waiting client's job weighs more than bulk work. 0: it rests."""
        self._weight = weight
        if self._slot >= 0:
            _SLOT.pack_into(self._map, self._slot * _SLOT.size, os.getpid(), weight, time.monotonic())

    def threads(self, others: float = 0.0) -> int:
        """How many threads the next step may use: all cores when alone, this worker's share otherwise, at least 1. `others`:
        how many cores other programs keep busy, as OtherPrograms counts them."""
        total, now = self._weight or 1.0, time.monotonic()
        mine = total
        for slot, (pid, weight, beat) in enumerate(_SLOT.iter_unpack(self._map[:])):
            if pid == 0:
                break  # slots fill from the front
            if weight == 0.0 or slot == self._slot:
                continue
            if now - beat > _STALE and not alive(pid):
                _SLOT.pack_into(self._map, slot * _SLOT.size, pid, 0.0, now)
                continue
            total += weight
        free = max(1, self._cores - int(others + 1 - _MIN_BUSY_SHARE))
        return max(1, int(free * mine / total))

    def pids(self) -> list[int]:
        """All processes that are in the table, this one among them."""
        pids = [pid for pid, _, _ in _SLOT.iter_unpack(self._map[:]) if pid]
        return pids if self._slot >= 0 else [*pids, os.getpid()]

    def close(self) -> None:
        if self._slot >= 0:
            # The pid stays, as `threads` stops at the first slot that never had one; a dead pid's slot is taken again.
            _SLOT.pack_into(self._map, self._slot * _SLOT.size, os.getpid(), 0.0, time.monotonic())
        with contextlib.suppress(BufferError):
            self._map.close()


def _own(path: Path) -> int:
    """The file opened for reading and writing, made if need be; OSError when it is not a plain file of this user alone."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid() or status.st_nlink != 1:
        os.close(descriptor)
        raise OSError(errno.EPERM, "it is not a file of this user's own")
    os.fchmod(descriptor, 0o600)
    return descriptor


def alive(pid: int) -> bool:
    """Whether a process of this machine runs under a pid."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
