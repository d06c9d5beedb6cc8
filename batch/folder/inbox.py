"""The inbox: finds what was dropped, waits until it stands still, and takes it in.

A periodic scan is the truth; events (watch.py) only name paths to look at earlier. All of it blocks: one thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from batch.errors import DiskFull
from batch.folder.file_names import RULES_FILE, ignored, one_line
from batch.folder.folder_settings import Rules
from batch.folder.intake import Intake, Moving
from batch.folder.ledger import Arrival, Ledger
from batch.folder.safe_open import Found, find, open_below
from batch.queue.spool import Spool
from batch.settings import Settings

logger = logging.getLogger("batch.folder")
CHUNK = 50
"""Most files accepted in one transaction: a caller that submits meanwhile waits for no more than these."""
_CHUNK_BYTES = 256 << 20
_CHUNK_SECONDS = 2.0
_LOOK = 500
"""Files compared with the ledger at a time."""
_MOST_PENDING = 50_000
"""Files that are watched settling; the rest are found again by a later scan."""


@dataclass(slots=True)
class _Pending:
    found: Found
    since: float
    """time.monotonic() when it was first seen as it is."""
    settle: float


class Inbox:
    """One inbox folder. Use from one thread at a time."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        spool: Spool,
        cleared: Callable[[str], None],
        going: Callable[[], bool] = lambda: True,
    ) -> None:
        """`cleared` is called with the path of every file that is worked on anew; reading ends early when no longer
        `going`."""
        self._going = going
        self._ledger = ledger
        self._cleared = cleared
        self.root = os.fspath(settings.inbox_dir)
        self._rules = Rules(self.root, settings.folder)
        self._intake = Intake(settings, spool, going)
        self._pending: dict[str, _Pending] = {}
        self._ready: dict[str, Found] = {}
        self._full = ""
        own = (settings.home / settings.folder.done, settings.outbox_dir, settings.state_dir)
        self._own = {os.path.abspath(path) for path in own}

    # -- looking

    def scan(self) -> None:
        """Look at everything. A missing inbox is no news: it may come back."""
        seen = set()
        for folder, files in self._folders():
            seen.add(folder)
            self._rules.of(folder)
            present = 0
            for some in _slices(files, _LOOK):
                if not self._going():
                    return
                present += self._compare(some)
            if present != self._ledger.present(folder):
                self._find_gone(folder)
        self._tell_rules()
        if not self._going() or not os.path.isdir(self.root):
            return
        for folder in self._ledger.folders():
            if folder not in seen and not os.path.isdir(os.path.join(self.root, folder)):
                self._find_gone(folder)

    def look(self, paths: Iterable[str]) -> None:
        """Look at single files, and at folders as a whole."""
        files, gone = [], []
        for path in paths:
            if any(ignored(part) for part in path.split("/")):
                if path.rpartition("/")[2] == RULES_FILE:
                    self._rules.of(path.rpartition("/")[0])
                continue
            if self._in_own_folder(path):
                continue
            absolute = os.path.join(self.root, path)
            if os.path.isdir(absolute) and not os.path.islink(absolute):
                for folder, inner in self._folders(path):
                    self._rules.of(folder)
                    for some in _slices(inner, _LOOK):
                        self._compare(some)
            elif os.path.lexists(absolute):
                files.append(path)
            else:
                gone.append(path)
        for some in _slices(iter(files), _LOOK):
            self._compare(some)
        if gone and os.path.isdir(self.root):
            self._ledger.mark_gone(gone)
        self._tell_rules()

    def _in_own_folder(self, path: str) -> bool:
        absolute = os.path.abspath(os.path.join(self.root, path))
        return any(absolute == own or absolute.startswith(own + os.sep) for own in self._own)

    def _folders(self, start: str = "") -> Iterator[tuple[str, Iterator[str]]]:
        """Every folder below `start` with the paths of what it holds but folders; links to folders lead nowhere."""
        stack = [start]
        while stack and self._going():
            folder = stack.pop()
            try:
                descriptor = open_below(self.root, folder, os.O_RDONLY | os.O_DIRECTORY)
            except OSError:
                continue
            inner: list[str] = []
            try:
                with os.scandir(descriptor) as entries:
                    yield folder, self._files(folder, entries, inner)
            finally:
                os.close(descriptor)
            stack.extend(inner)

    def _files(self, folder: str, entries: Iterable[os.DirEntry[str]], inner: list[str]) -> Iterator[str]:
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            try:
                is_folder = entry.is_dir(follow_symlinks=False)
            except OSError:
                continue
            if is_folder:
                if not entry.name.startswith(".") and os.path.abspath(os.path.join(self.root, path)) not in self._own:
                    inner.append(path)
            elif not ignored(entry.name):
                yield path

    def _compare(self, paths: list[str]) -> int:
        """Put what is new or changed among pending; returns how many of them the ledger knows as present."""
        known = self._ledger.known(paths)
        present = 0
        for path in paths:
            try:
                found = find(self.root, path)
            except OSError as error:
                logger.debug("%s cannot be looked at: %s", one_line(path), error)
                continue
            if found is None:
                continue
            if path in known:
                stamp, state, gone = known[path]
                present += not gone
                changed = not found.stamp.same(stamp) or (state == "failed" and stamp != found.stamp)
                if not changed and not gone:
                    continue
            self._watch(path, found)
        return present

    def _watch(self, path: str, found: Found) -> None:
        before = self._pending.get(path)
        if before is not None and before.found.stamp.same(found.stamp):
            return
        if path in self._ready or (before is None and len(self._pending) >= _MOST_PENDING):
            return
        self._pending[path] = _Pending(found, time.monotonic(), self._rules.of(path.rpartition("/")[0]).settle)

    def _find_gone(self, folder: str) -> None:
        after = ""
        while paths := self._ledger.paths_in(folder, after):
            after = paths[-1]
            if gone := [path for path in paths if not os.path.lexists(os.path.join(self.root, path))]:
                self._ledger.mark_gone(gone)

    def _tell_rules(self) -> None:
        """A wrong rules file becomes an error in the outbox like any wrong file; a mended one takes it away."""
        for news in self._rules.news():
            known = self._ledger.known([news.path]).get(news.path)
            if news.problem is None:
                if known:
                    self._ledger.reject(news.path)
                    self._cleared(news.path)
            elif news.stamp is not None and (known is None or known[0] != news.stamp):
                error = news.problem.record()
                self._ledger.accept([Arrival(news.path, news.stamp, {}, error=error)])

    # -- settling

    def next_settle(self) -> float | None:
        """time.monotonic() when the next file may have stood still for long enough; None when there is none."""
        if self._ready:
            return 0.0
        return min((one.since + one.settle for one in self._pending.values()), default=None)

    def settle(self) -> int:
        """See which files stand still; returns how many are ready to be accepted."""
        now = time.monotonic()
        for path, one in list(self._pending.items()):
            if now - one.since < one.settle:
                continue
            try:
                found = find(self.root, path)
            except OSError:
                found = None
            if found is None:
                del self._pending[path]
            elif not found.stamp.same(one.found.stamp):
                self._pending[path] = _Pending(found, time.monotonic(), one.settle)
            else:
                del self._pending[path]
                self._ready[path] = found
        return len(self._ready)

    # -- accepting

    def accept(self) -> int:
        """Accept one chunk of the ready files, durably; returns how many were accepted.

        When the disk is full nothing is accepted, and DiskFull is raised; the files are ready still.
        """
        arrivals: list[Arrival] = []
        done: list[str] = []
        size, until = 0, time.monotonic() + _CHUNK_SECONDS
        waiting: DiskFull | None = None
        for path, found in list(islice(self._ready.items(), CHUNK)):
            if arrivals and found.stamp.size > _CHUNK_BYTES:
                break  # what was copied already does not wait for the copy of a film
            try:
                arrival = self._intake.take(path, found, self._rules.of(path.rpartition("/")[0]))
            except Moving:
                del self._ready[path]
                self._watch_again(path)
                continue
            except DiskFull as error:  # a smaller one may fit
                waiting = error
                continue
            done.append(path)
            if arrival is not None:
                arrivals.append(arrival)
                size += arrival.stamp.size
            if size > _CHUNK_BYTES or time.monotonic() > until:
                break
        states = self._ledger.accept(arrivals) if arrivals else []
        for path in done:
            del self._ready[path]
        for arrival, state in zip(arrivals, states, strict=True):
            if state == "waiting":
                self._cleared(arrival.path)
        if waiting is not None:
            if not self._full:
                logger.error("The inbox waits: %s", waiting.message)
            self._full = waiting.message
            # To the end of the line: it must not keep others from being tried.
            for path in [path for path in islice(self._ready, CHUNK)]:
                self._ready[path] = self._ready.pop(path)
            if not arrivals:
                raise waiting
        elif arrivals and self._full:
            logger.info("The inbox goes on.")
            self._full = ""
        return len(arrivals)

    def _watch_again(self, path: str) -> None:
        with contextlib.suppress(OSError):
            if (found := find(self.root, path)) is not None:
                # At least a second: whatever kept it from being read is not to be tried without a pause.
                settle = max(1.0, self._rules.of(path.rpartition("/")[0]).settle)
                self._pending[path] = _Pending(found, time.monotonic(), settle)


def _slices(paths: Iterator[str], length: int) -> Iterator[list[str]]:
    while some := list(islice(paths, length)):
        yield some
