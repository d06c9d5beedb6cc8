"""Copies of large files into the spool, and reading of documents, beside the intake: a note that is dropped behind a film does
not wait for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from batch.errors import DiskFull
from batch.folder.daemon_thread import DaemonThread
from batch.folder.folder_settings import EffectiveSettings
from batch.folder.inbox.intake import Intake
from batch.folder.inbox.source_file import Candidate, StillChanging
from batch.folder.ledger.rows import Arrival

LARGE_BYTES = 8 << 20
"""Larger files are copied beside the intake."""


class FinishedCopy(NamedTuple):
    """A file that was read, or what kept it from being read."""

    candidate: Candidate
    arrival: Arrival | None
    """None with a `problem`, and when the file has gone."""
    problem: StillChanging | DiskFull | None


class LargeCopies:
    """One copy at a time, in a thread of its own; everything but the copying happens in the client's thread."""

    def __init__(self, intake: Intake, report_finished: Callable[[], None]) -> None:
        """`report_finished` is called, in the copying thread, when `take_finished` has something."""
        self._intake = intake
        self._report_finished = report_finished
        self._thread = DaemonThread("inbox copies")
        self._paths: set[str] = set()
        self._finished: deque[FinishedCopy] = deque()

    def is_copying(self, path: str) -> bool:
        """Whether a file is being copied, waits for that, or was and is not taken yet."""
        return path in self._paths

    def start(self, candidate: Candidate, settings: EffectiveSettings) -> None:
        """Have a file read."""
        self._paths.add(candidate.path)
        self._thread.run(lambda: self._copy(candidate, settings))

    def _copy(self, candidate: Candidate, settings: EffectiveSettings) -> None:
        try:
            self._finished.append(FinishedCopy(candidate, self._intake.take(candidate, settings, may_take_long=True), None))
        except (StillChanging, DiskFull) as problem:
            self._finished.append(FinishedCopy(candidate, None, problem))
        finally:
            self._report_finished()

    def has_finished(self) -> bool:
        """Whether `take_finished` has something."""
        return bool(self._finished)

    def take_finished(self) -> list[FinishedCopy]:
        """What was read since the last call."""
        finished = []
        while self._finished:
            finished.append(self._finished.popleft())
            self._paths.discard(finished[-1].candidate.path)
        return finished

    def close(self, timeout_s: float) -> bool:
        """Wait for the copy that is under way, which ends early when the intake is no longer going; whether it ended."""
        return self._thread.close(timeout_s)
