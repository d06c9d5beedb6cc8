"""How many of the cores other programs keep busy, as Linux counts it: threads of a model wait for one another at every barrier,
so one that finds no core holds up all of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from batch.cpu_sharing.core_table import usable_numbers

PROC = Path("/proc")
MIN_WINDOW_S = 0.5
"""Time is counted in ticks of 10 ms: over less of it, chance would count."""
_STAT_PREFIX = "cpu"
_BUSY_COLUMNS = (1, 3, 6, 7)
"""Of /proc/stat's lines: user, system, irq, softirq; what runs at a lower priority ("nice") gives way by itself."""
_USER_TICKS, _KERNEL_TICKS, _NICENESS = 11, 12, 16
"""Columns of /proc/PID/stat behind the name."""


class OtherPrograms:
    """What others than batch's own processes take of the cores that this process may run on."""

    def __init__(self, proc: Path = PROC, clock: Callable[[], float] = time.monotonic) -> None:
        self._proc = proc
        self._clock = clock
        self._ticks_per_s = float(os.sysconf("SC_CLK_TCK")) if hasattr(os, "sysconf") else 100.0
        self._at = clock()
        self._busy: float | None = None
        """Ticks of all that ran; None: never read, or not to be read here."""
        self._own: dict[int, float] = {}
        self._cores = 0.0

    def forget(self) -> None:
        """What others did so far says nothing of what comes: the next look only begins to count."""
        self._busy, self._cores = None, 0.0

    def cores(self, own: Collection[int]) -> float:
        """How many cores others kept busy on average since the last look, which is `MIN_WINDOW_S` back at least; 0.0 at the
        first one, and where that cannot be read. `own`: the pids of batch's processes that compute, this one among them."""
        now = self._clock()
        if self._busy is not None and now - self._at < MIN_WINDOW_S:
            return self._cores
        try:
            self._look(now, self._read_busy(), dict(self._read_processes(own)))
        except (OSError, ValueError, IndexError):
            return 0.0
        return self._cores

    def _look(self, now: float, busy: float, processes: dict[int, float]) -> None:
        if self._busy is not None:
            mine = sum(ticks - self._own[pid] for pid, ticks in processes.items() if pid in self._own)
            self._cores = max(0.0, (busy - self._busy - mine) / self._ticks_per_s / (now - self._at))
        self._at, self._busy, self._own = now, busy, processes

    def _read_busy(self) -> float:
        """Ticks of what has run so far on the processors that this process may use."""
        lines = (self._proc / "stat").read_text().splitlines()
        usable = {f"{_STAT_PREFIX}{number}" for number in usable_numbers()}
        busy = 0.0
        for line in lines:
            columns = line.split()
            if columns and columns[0] in usable:
                busy += sum(float(columns[place]) for place in _BUSY_COLUMNS)
            elif not line.startswith(_STAT_PREFIX):
                break  # the processors' lines come first
        return busy

    def _read_processes(self, pids: Collection[int]) -> Iterator[tuple[int, float]]:
        for pid in pids:
            try:
                text = (self._proc / str(pid) / "stat").read_text()
            except OSError:  # it has ended
                continue
            # The name may hold spaces and brackets, but no column behind it does.
            columns = text.rpartition(")")[2].split()
            # At a lower priority the time in user mode is "nice" in /proc/stat too, which is no part of what is busy there.
            user = float(columns[_USER_TICKS]) if int(columns[_NICENESS]) <= 0 else 0.0
            yield pid, user + float(columns[_KERNEL_TICKS])
