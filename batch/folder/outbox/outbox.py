"""The outbox: a file's results beside each other under its own path, whole or not at all, JSON last.

Others may write there too: no link below it is followed, nothing but regular files is opened, and nothing is waited for.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Iterable

from batch import fail_points
from batch.folder.file_names import ERROR_ENDING, one_line, result_stem
from batch.folder.ledger.ledger import Ledger
from batch.folder.ledger.rows import Delivery, FileState
from batch.folder.outbox.access import share_file
from batch.folder.outbox.disposal import Disposal, Fate
from batch.folder.outbox.outbox_folders import OutboxFolders, has_result
from batch.folder.outbox.result_document import HEAD_BYTES
from batch.folder.outbox.result_files import ResultFiles, ResultPlanner
from batch.folder.safe_open import is_regular_file, open_below, open_folder_below
from batch.media.kind import MediaKind
from batch.queue.spool import Spool
from batch.settings import Settings

logger = logging.getLogger("batch.folder")
_GROUP_FILES = 32
"""Files written together: their fsyncs share the file system's journal commits."""
_GROUP_BYTES = 8 << 20
_NEW_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Outbox:
    """Blocking: call from one thread at a time; `clear` from any."""

    def __init__(self, settings: Settings, ledger: Ledger, spool: Spool) -> None:
        self._root = os.fspath(settings.outbox_dir)
        self._access = settings.outbox.access
        self._ledger = ledger
        self._planner = ResultPlanner(ledger, spool)
        self._disposal = Disposal(settings)
        self._complaints: set[str] = set()

    def deliver(self, is_going: Callable[[], bool] = lambda: True) -> bool:
        """Write every outcome that is ready, while `is_going`; False when some could not be written and must wait."""
        after, is_stuck = 0, False
        while is_going():
            deliveries = _within_memory(self._ledger.deliveries(after, _GROUP_FILES))
            if not deliveries:
                break
            after = deliveries[-1].id
            results, recorded = self._write_group(deliveries)
            is_stuck = is_stuck or recorded < len(deliveries)
            if not results:  # not one file's trouble but the outbox's
                break
        if not is_stuck and self._complaints:
            logger.info("The outbox can be written again.")
            self._complaints.clear()
        return not is_stuck

    def clear(self, path: str) -> None:
        """Take away what says "done" or "failed" of an earlier state of a source."""
        folder, _, name = result_stem(path).rpartition("/")
        with contextlib.suppress(OSError):
            descriptor = open_folder_below(self._root, folder)
            try:
                for ending in (".json", ERROR_ENDING):
                    with contextlib.suppress(OSError):
                        os.unlink(name + ending, dir_fd=descriptor)
            finally:
                os.close(descriptor)

    def find_missing(self, after: int) -> tuple[int | None, int]:
        """Look at a slice of the files that lie in the inbox and have results: those whose JSON is not in the outbox
        are written again. Returns the next slice's start, None behind the last, and how many were missing."""
        files = self._ledger.delivered_paths(after)
        missing = [id for id, path in files if not has_result(self._root, path)]
        if missing:
            self._ledger.deliver_again(missing)
        return (files[-1][0] if files else None), len(missing)

    # -- writing

    def _write_group(self, deliveries: Iterable[Delivery]) -> tuple[int, int]:
        """Write a group; every stage is done for all of them before the next, so that they share what it costs.

        Returns how many were written, and how many of these are done with: the sources of others are still written to.
        """
        group = [self._planner.plan(delivery) for delivery in deliveries]
        try:
            folders = OutboxFolders(self._root, self._access)
        except OSError as error:
            self._complain(group[0], error)
            return 0, 0
        with contextlib.closing(folders):
            return self._write_planned(group, folders)

    def _write_planned(self, group: list[ResultFiles], folders: OutboxFolders) -> tuple[int, int]:
        self._for_each(group, folders, self._write_temporary)
        self._for_each(group, folders, self._flush)
        fail_points.reach("outbox-temporary")
        self._for_each(group, folders, self._replace_parts)
        # Once more in between: no power cut may leave a JSON without the files that it says are there.
        if any(len(files.parts) > 1 for files in group):
            self._sync(group, folders)
        fail_points.reach("outbox-parts")
        self._for_each(group, folders, lambda files, folder: self._place(files, folder, files.parts[-1][0]))
        self._sync(group, folders)
        fail_points.reach("outbox-json")
        outcomes: list[tuple[Delivery, FileState, bool]] = []
        for files in group:
            if files.error is not None:
                self._complain(files, files.error)
            elif (fate := self._disposal.dispose(files)) is not Fate.LATER:
                outcomes.append((files.delivery, files.state, fate is Fate.GONE))
        fail_points.reach("source-moved")
        self._ledger.record_deliveries(outcomes)
        fail_points.reach("outbox-noted")
        return sum(files.error is None for files in group), len(outcomes)

    def _for_each(self, group: Iterable[ResultFiles], folders: OutboxFolders, work: Callable[[ResultFiles, int], None]) -> None:
        """One file's trouble is its own: it is left for later, without a trace."""
        for files in group:
            if files.error is not None or files.is_written:
                continue
            try:
                folder = folders.open(files.folder)
            except OSError as error:
                files.error = error
                continue
            try:
                work(files, folder)
                folders.note_change(files.folder)
            except OSError as error:
                files.error = error
                for ending, _ in files.parts:
                    with contextlib.suppress(OSError):
                        os.unlink(files.temporary_name(ending), dir_fd=folder)

    def _write_temporary(self, files: ResultFiles, folder: int) -> None:
        files.is_written = self._holds_result(files, folder)
        for ending, content in files.parts:
            temporary = files.temporary_name(ending)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)
            if files.is_written:
                continue
            with open(os.open(temporary, _NEW_FILE_FLAGS, 0o600, dir_fd=folder), "wb") as file:
                share_file(file.fileno(), self._access)
                for chunk in content():
                    file.write(chunk)

    def _holds_result(self, files: ResultFiles, folder: int) -> bool:
        """Whether this very result lies in the outbox, all of it."""
        if not files.mark or not all(is_regular_file(folder, files.name(ending)) for ending, _ in files.parts):
            return False
        try:
            descriptor = open_below(folder, files.name(files.parts[-1][0]))
        except OSError:
            return False
        try:
            return files.mark in os.pread(descriptor, HEAD_BYTES, 0)
        finally:
            os.close(descriptor)

    def _flush(self, files: ResultFiles, folder: int) -> None:
        for ending, _ in files.parts:
            descriptor = os.open(files.temporary_name(ending), os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _replace_parts(self, files: ResultFiles, folder: int) -> None:
        for ending in (files.parts[-1][0], *files.stale_endings):  # what says "done" goes first
            with contextlib.suppress(FileNotFoundError):
                os.unlink(files.name(ending), dir_fd=folder)
        for ending, _ in files.parts[:-1]:
            self._place(files, folder, ending)

    def _place(self, files: ResultFiles, folder: int, ending: str) -> None:
        os.replace(files.temporary_name(ending), files.name(ending), src_dir_fd=folder, dst_dir_fd=folder)

    def _sync(self, group: Iterable[ResultFiles], folders: OutboxFolders) -> None:
        failures = folders.sync()
        for files in group:
            for folder, error in failures.items():
                if files.folder == folder or files.folder.startswith(f"{folder}/") or not folder:
                    files.error = files.error or error

    def _complain(self, files: ResultFiles, error: OSError) -> None:
        reason = error.strerror or str(error)
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            reason = "a link or a file stands in the place of a folder"
        if reason not in self._complaints:  # once, however often it is tried
            logger.error(
                "The results of %s cannot be written to %s: %s; they are kept, and written as soon as they can be.",
                one_line(files.delivery.path),
                self._root,
                reason,
            )
            self._complaints.add(reason)


def _within_memory(deliveries: list[Delivery]) -> list[Delivery]:
    """As many from the front as may be held in memory at once: a text's document holds the text."""
    total = 0
    for number, delivery in enumerate(deliveries):
        content = delivery.content
        total += content.size if content and content.kind == MediaKind.TEXT else 0
        if total > _GROUP_BYTES and number:
            return deliveries[:number]
    return deliveries
