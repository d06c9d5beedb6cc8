"""The inbox: finds what was dropped, waits until it stands still, and takes it in.

A periodic scan is the truth; events (watcher.py) only name paths to look at earlier. All of it blocks: one thread.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import NamedTuple

from batch.errors import BadRequest, DiskFull
from batch.folder.file_names import SETTINGS_FILE, one_line
from batch.folder.folder_settings import FolderSettingsReader
from batch.folder.inbox.entry import inspect
from batch.folder.inbox.intake import Intake
from batch.folder.inbox.large_copies import LARGE_BYTES, LargeCopies
from batch.folder.inbox.settling import Settling
from batch.folder.inbox.source_file import NotSettled, StillChanging, TakesLong
from batch.folder.inbox.walk import InboxWalk
from batch.folder.ledger.ledger import Ledger
from batch.folder.ledger.rows import Arrival, FileState, RedoRequest
from batch.folder.safe_open import FileStamp
from batch.queue.spool import Spool
from batch.settings import Settings

logger = logging.getLogger("batch.folder")
MAX_CHUNK_FILES = 50
"""Most files accepted in one transaction: a client that submits meanwhile waits for no more than these."""
_MAX_CHUNK_BYTES = 64 << 20
_MAX_CHUNK_S = 2.0
_COMPARED_FILES = 500
"""Files compared with the ledger at a time."""


class Sighting(NamedTuple):
    """A path that an event named."""

    path: str
    is_closed: bool = False
    """Its writer has closed it, or given it its name."""


class Inbox:
    """One inbox folder. Use from one thread at a time."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        spool: Spool,
        *,
        clear_results: Callable[[str], None],
        cancel_job: Callable[[str], None],
        report_copied: Callable[[], None],
        is_going: Callable[[], bool] = lambda: True,
    ) -> None:
        """`clear_results` is called with the path of every file that is worked on anew, `cancel_job` with every job that
        nobody wants any more, `report_copied` from another thread when a large file is ready to be accepted. Reading ends
        early when no longer `is_going`."""
        self._is_going = is_going
        self._ledger = ledger
        self._clear_results = clear_results
        self._cancel_job = cancel_job
        self.root = os.fspath(settings.inbox_dir)
        self._settings = FolderSettingsReader(self.root, settings.folder)
        self._intake = Intake(settings, spool, is_going)
        self._copies = LargeCopies(self._intake, report_copied)
        self._settling = Settling(self.root, lambda path: self._settings.for_file(path).folder)
        self._walk = InboxWalk(settings, lambda folder: self._settings.for_folder(folder).ignore, is_going)
        self._is_disk_full = False
        self._redos: dict[str, RedoRequest] = {}
        """What is to be done again, and how."""
        self._unrecorded: list[Arrival] = []
        """Files that were read, and could not be written into the ledger."""

    def close(self, timeout_s: float) -> bool:
        """End the copies, once no longer `is_going`; returns whether they have ended within `timeout_s` seconds."""
        return self._copies.close(timeout_s)

    def is_copying(self, path: str) -> bool:
        """Whether a large file is being copied into the spool, beside everything else."""
        return self._copies.is_copying(path)

    # -- looking

    def scan(self) -> None:
        """Look at everything. A missing inbox is nothing to report: it may come back."""
        paths_seen = set()
        self._settings.refresh()
        for folder, files in self._walk.folders():
            paths_seen.add(folder)
            self._settings.for_folder(folder)
            present = 0
            for some in _slices(files, _COMPARED_FILES):
                if not self._is_going():
                    return
                present += self._compare(some)
            if present != self._ledger.count_present(folder):
                self._mark_gone_files(folder)
        self._record_settings_problems()
        self._record_unreadable_folders()
        if not self._is_going() or not os.path.isdir(self.root):
            return
        for folder in self._ledger.present_folders():
            if folder not in paths_seen and not os.path.isdir(os.path.join(self.root, folder)):
                self._mark_gone_files(folder)

    def look(self, sightings: Iterable[Sighting]) -> None:
        """Look at single files, and at folders as a whole."""
        files: list[Sighting] = []
        gone_paths: list[str] = []
        self._settings.refresh()
        for sighting in sightings:
            path = sighting.path
            folder, _, name = path.rpartition("/")
            if name == SETTINGS_FILE:
                self._settings.for_folder(folder)
                continue
            if self._walk.is_out_of_bounds(path):
                continue
            ignore = self._settings.for_folder(folder).ignore
            absolute = os.path.join(self.root, path)
            is_folder = os.path.isdir(absolute) and not os.path.islink(absolute)
            if path and not (ignore.is_folder_entered(path) if is_folder else not ignore.is_file_ignored(path)):
                continue
            if is_folder:
                for below, inner in self._walk.folders(path):
                    self._settings.for_folder(below)
                    for some in _slices(inner, _COMPARED_FILES):
                        self._compare(some)
            elif os.path.lexists(absolute):
                files.append(sighting)
            else:
                gone_paths.append(path)
        closed = {sighting.path for sighting in files if sighting.is_closed}
        for some in _slices((sighting.path for sighting in files), _COMPARED_FILES):
            self._compare(some, closed)
        if gone_paths and os.path.isdir(self.root):
            self._ledger.mark_gone(gone_paths)
        self._record_settings_problems()
        self._record_unreadable_folders()

    def _compare(self, paths: list[str], closed: Iterable[str] = ()) -> int:
        """Watch what is new or changed; returns how many of the paths the ledger has as present."""
        recorded = self._ledger.recorded_files(paths)
        present = 0
        for path in paths:
            try:
                entry = inspect(self.root, path)
            except OSError as error:
                self._walk.note_unreadable_file(path, error)
                continue
            if entry is None:
                continue
            if path in recorded:
                file = recorded[path]
                present += not file.gone
                is_changed = not entry.stamp.has_same_content(file.stamp) or (
                    file.state is FileState.FAILED and file.stamp != entry.stamp
                )
                if file.redo is not None:
                    self._redos[path] = file.redo
                elif not is_changed and not file.gone:
                    continue
            if not self._copies.is_copying(path):
                self._settling.watch(path, entry, is_closed=path in closed)
        return present

    def _mark_gone_files(self, folder: str) -> None:
        after = ""
        while paths := self._ledger.present_paths(folder, after):
            after = paths[-1]
            if gone_paths := [path for path in paths if not os.path.lexists(os.path.join(self.root, path))]:
                self._ledger.mark_gone(gone_paths)

    def _record_settings_problems(self) -> None:
        """A wrong settings file becomes an error in the outbox like any wrong file; a mended one takes it away."""
        for change in self._settings.take_changes():
            recorded = self._ledger.recorded_files([change.path]).get(change.path)
            if change.problem is None:
                if recorded:
                    self._forget_error(change.path)
            elif change.stamp is not None and (recorded is None or recorded.stamp != change.stamp):
                self._ledger.accept([Arrival(path=change.path, stamp=change.stamp, error=change.problem.record())])

    def _record_unreadable_folders(self) -> None:
        """A folder that cannot be looked into becomes an error in the outbox; once it can be, that goes."""
        for path, error in self._walk.take_unreadable().items():
            sentence = f"{one_line(path) or 'The inbox'} cannot be read: {error.strerror}."
            logger.error("%s", sentence)
            if path:
                stamp = _stamp_of(os.path.join(self.root, path))
                problem = BadRequest(f"{sentence[:-1]}; give the user of the service the right to.")
                self._ledger.accept([Arrival(path=path, stamp=stamp, error=problem.record())])
        for some in _slices(self._walk.take_readable(), _COMPARED_FILES):
            for path in self._ledger.recorded_files(some):
                self._forget_error(path)

    def _forget_error(self, path: str) -> None:
        if self._ledger.forget_error(path):
            self._clear_results(path)

    # -- accepting

    def next_due(self) -> float | None:
        """time.monotonic() when the next file may be accepted; None when there is none."""
        return 0.0 if self._copies.has_finished() else self._settling.next_due()

    def settle(self) -> int:
        """See which files stand still; returns how many are ready to be accepted."""
        return self._settling.advance() + self._copies.has_finished() + bool(self._unrecorded)

    def accept(self) -> int:
        """Accept one chunk of the ready files, durably; returns how many were accepted.

        When the disk is full nothing is accepted, and DiskFull is raised; the files are ready still.
        """
        arrivals, disk_full = self._take_copies()
        self._settings.refresh()
        size, until = 0, time.monotonic() + _MAX_CHUNK_S
        for candidate in list(islice(self._settling.ready(), MAX_CHUNK_FILES)):
            path = candidate.path
            settings = self._settings.for_file(path).for_redo(self._redos.get(path))
            if candidate.entry.stamp.size > LARGE_BYTES:
                self._settling.remove(path)
                self._copies.start(candidate, settings)
                continue
            try:
                arrival = self._intake.take(candidate, settings)
            except TakesLong:
                self._settling.remove(path)
                self._copies.start(candidate, settings)
                continue
            except StillChanging as error:
                self._settling.remove(path)
                self._settling.watch_longer(candidate, is_unsure=isinstance(error, NotSettled))
                continue
            except DiskFull as error:  # a smaller one may fit; it must not keep the others from being tried
                disk_full = error
                self._settling.put_last(path)
                continue
            self._settling.remove(path)
            if arrival is not None:
                arrivals.append(arrival)
                size += arrival.stamp.size
            if size > _MAX_CHUNK_BYTES or time.monotonic() > until:
                break
        self._record(arrivals)
        self._report_disk(disk_full, has_accepted=bool(arrivals))
        return len(arrivals)

    def _take_copies(self) -> tuple[list[Arrival], DiskFull | None]:
        """The large files that were copied, and what kept one from being copied."""
        arrivals, disk_full = [], None
        for copy in self._copies.take_finished():
            if copy.arrival is not None:
                arrivals.append(copy.arrival)
            elif isinstance(copy.problem, DiskFull):
                disk_full = copy.problem
                self._settling.watch_longer(copy.candidate, wait_s=self._settings.base.scan)
            elif copy.problem is not None:
                self._settling.watch_longer(copy.candidate, is_unsure=isinstance(copy.problem, NotSettled))
        return arrivals, disk_full

    def _record(self, arrivals: list[Arrival]) -> None:
        self._unrecorded += arrivals
        if not self._unrecorded:
            return
        accepted_files = self._ledger.accept(self._unrecorded)
        self._unrecorded = []
        for accepted in accepted_files:
            self._redos.pop(accepted.path, None)
            if accepted.state is FileState.WAITING and not accepted.is_redo:
                self._clear_results(accepted.path)
            if accepted.superseded_job:
                self._cancel_job(accepted.superseded_job)

    def _report_disk(self, problem: DiskFull | None, *, has_accepted: bool) -> None:
        if problem is not None:
            if not self._is_disk_full:
                logger.error("The inbox waits: %s", problem.message)
            self._is_disk_full = True
            if not has_accepted:
                raise problem
        elif has_accepted and self._is_disk_full:
            logger.info("The inbox goes on.")
            self._is_disk_full = False


def _stamp_of(path: str) -> FileStamp:
    try:
        return FileStamp.of(os.lstat(path))
    except OSError:
        return FileStamp(0, 0, 0, 0)


def _slices(paths: Iterable[str], length: int) -> Iterable[list[str]]:
    iterator = iter(paths)
    while some := list(islice(iterator, length)):
        yield some
