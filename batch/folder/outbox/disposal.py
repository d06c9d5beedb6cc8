"""What becomes of a source once its results are there: it stays, is moved, or is deleted.

Only what still is what was read is disposed of, and nothing that somebody has open for writing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import logging
import os
import stat
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from batch.durable_folder import sync_folder
from batch.folder.file_names import NAME_BYTES, one_line, shortened
from batch.folder.inbox.entry import inspect
from batch.folder.ledger.rows import Delivery, FileState
from batch.folder.open_writers import Writers, is_lease_whole, read_lease
from batch.folder.outbox.access import make_folders
from batch.folder.outbox.result_files import ResultFiles
from batch.folder.safe_open import FileStamp, make_folder_below, open_below, open_folder_below
from batch.settings import Settings

logger = logging.getLogger("batch.folder")
_COPY_BYTES = 1 << 20
_NEW_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Fate(Enum):
    """What has become of a source."""

    STAYS = "stays"
    GONE = "gone"
    LATER = "later"
    """Somebody has it open for writing: it is to be disposed of once that has ended."""


class _Changed(Exception):
    """What lies at the path is not what was read any more."""


class Disposal:
    """Blocking; one file at a time."""

    def __init__(self, settings: Settings) -> None:
        self._inbox = os.fspath(settings.inbox_dir)
        self._done = os.fspath(settings.done_dir)
        self._access = settings.outbox.access

    def dispose(self, files: ResultFiles) -> Fate:
        """Do with the source what its rules say, its results being written; of what failed nothing is taken away."""
        delivery = files.delivery
        if delivery.rules.source == "keep" or files.state is FileState.FAILED:
            return Fate.STAYS
        folder, _, name = delivery.path.rpartition("/")
        try:
            here = open_folder_below(self._inbox, folder)
        except (FileNotFoundError, NotADirectoryError):
            return Fate.GONE
        except OSError as error:
            return self._stays(delivery, error)
        try:
            self._finish_interrupted(delivery, here, name)
            entry = inspect(self._inbox, delivery.path)
            if entry is None:
                return Fate.GONE
            if not entry.stamp.has_same_content(delivery.stamp):  # dropped anew
                return Fate.STAYS
            if entry.target != delivery.path:  # a link: the file that it leads to is disposed of under its own path
                self._remove_link(delivery, here, name)
                return Fate.GONE
            return self._dispose_file(delivery, here, name)
        except _Changed:
            return Fate.STAYS
        except OSError as error:
            return self._stays(delivery, error)
        finally:
            os.close(here)

    def _stays(self, delivery: Delivery, error: OSError) -> Fate:
        logger.warning("%s stays in the inbox: it cannot be taken away: %s", one_line(delivery.path), error.strerror)
        return Fate.STAYS

    def _dispose_file(self, delivery: Delivery, here: int, name: str) -> Fate:
        source = open_below(here, name)
        try:
            self._require_unchanged(source, delivery)
            with read_lease(source) as writers:
                if writers is Writers.SOME:
                    return Fate.LATER
                self._require_stamp(source, delivery)
                if delivery.rules.source == "delete":
                    self._remove(source, delivery, here, name, writers)
                else:
                    self._move(source, delivery, here, name, writers)
                return Fate.GONE
        finally:
            os.close(source)

    def _require_unchanged(self, source: int, delivery: Delivery) -> None:
        """Raise _Changed unless an open source holds what was read, byte for byte where its stamp leaves a doubt."""
        status = self._require_stamp(source, delivery)
        content = delivery.content
        if FileStamp.of(status) != delivery.stamp and content is not None:
            # Its rights or links changed, or its bytes and then its time, put back: the change time alone does not tell.
            digest = hashlib.sha256()
            for chunk in _chunks(source):
                digest.update(chunk)
            if digest.hexdigest() != content.sha256:
                raise _Changed

    def _require_stamp(self, source: int, delivery: Delivery) -> os.stat_result:
        status = os.fstat(source)
        if not stat.S_ISREG(status.st_mode) or not FileStamp.of(status).has_same_content(delivery.stamp):
            raise _Changed
        return status

    # -- delete

    def _remove(self, source: int, delivery: Delivery, here: int, name: str, writers: Writers) -> None:
        """Delete exactly the open source: it is renamed first, and what was renamed is looked at."""
        hidden = _hidden_name(delivery)
        os.rename(name, hidden, src_dir_fd=here, dst_dir_fd=here)
        is_being_opened = writers is Writers.NONE and not is_lease_whole(source)
        if is_being_opened or not _is_same_file(source, here, hidden):
            _rename_to_free(here, hidden, here, name)
            raise _Changed
        os.unlink(hidden, dir_fd=here)

    def _remove_link(self, delivery: Delivery, here: int, name: str) -> None:
        hidden = _hidden_name(delivery)
        os.rename(name, hidden, src_dir_fd=here, dst_dir_fd=here)
        if not stat.S_ISLNK(os.stat(hidden, dir_fd=here, follow_symlinks=False).st_mode):
            _rename_to_free(here, hidden, here, name)
            raise _Changed
        os.unlink(hidden, dir_fd=here)

    def _finish_interrupted(self, delivery: Delivery, here: int, name: str) -> None:
        """Take up what a killed service had renamed and not yet deleted, moved or put back."""
        hidden = _hidden_name(delivery)
        with contextlib.suppress(FileNotFoundError):
            _rename_to_free(here, hidden, here, name)
        if delivery.rules.source == "move":
            with contextlib.suppress(FileNotFoundError):
                there = self._open_done_folder(delivery)
                try:
                    status = os.stat(hidden, dir_fd=there, follow_symlinks=False)
                    if FileStamp.of(status).has_same_content(delivery.stamp):
                        _rename_to_free(there, hidden, there, name)
                finally:
                    os.close(there)

    # -- move

    def _move(self, source: int, delivery: Delivery, here: int, name: str, writers: Writers) -> None:
        there = self._open_done_folder(delivery)
        hidden = _hidden_name(delivery)
        try:
            try:
                os.rename(name, hidden, src_dir_fd=here, dst_dir_fd=there)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                self._copy(source, delivery, there, hidden, name)
                self._remove(source, delivery, here, name, writers)
            else:
                if not _is_same_file(source, there, hidden):
                    _rename_to_free(there, hidden, here, name)
                    raise _Changed
                _rename_to_free(there, hidden, there, name)
            sync_folder(there)
        finally:
            os.close(there)

    def _open_done_folder(self, delivery: Delivery) -> int:
        """Where a source is moved: below the home's done folder, where its settings say, and then as in the inbox."""
        folder = delivery.path.rpartition("/")[0]
        names = [*delivery.rules.done_folder.split("/"), *folder.split("/")]
        below = "/".join(name for name in names if name not in ("", ".", ".."))
        inside = os.path.relpath(self._done, self._inbox)
        if not inside.startswith(".."):  # somebody may have replaced it there by a link: none is followed
            return make_folder_below(self._inbox, f"{inside}/{below}".rstrip("/"), 0o700)
        make_folders(Path(self._done), self._access)
        return make_folder_below(self._done, below, 0o700)

    def _copy(self, source: int, delivery: Delivery, there: int, hidden: str, name: str) -> None:
        """Copy to another file system; raises _Changed unless the copy is what was read."""
        if self._holds_copy(source, there, name):  # a killed service's
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(hidden, dir_fd=there)
        digest = hashlib.sha256()
        with open(os.open(hidden, _NEW_FILE_FLAGS, 0o600, dir_fd=there), "wb") as copy:
            os.fchmod(copy.fileno(), stat.S_IMODE(os.fstat(source).st_mode) & 0o777)
            for chunk in _chunks(source):
                digest.update(chunk)
                copy.write(chunk)
            copy.flush()
            os.fsync(copy.fileno())
        if delivery.content is not None and digest.hexdigest() != delivery.content.sha256:
            os.unlink(hidden, dir_fd=there)
            raise _Changed
        _rename_to_free(there, hidden, there, name)

    def _holds_copy(self, source: int, there: int, name: str) -> bool:
        try:
            copy = open_below(there, name)
        except OSError:
            return False
        try:
            status = os.fstat(copy)
            return (
                stat.S_ISREG(status.st_mode)
                and status.st_size == os.fstat(source).st_size
                and all(ours == theirs for ours, theirs in zip(_chunks(source), _chunks(copy), strict=False))
            )
        finally:
            os.close(copy)


def _hidden_name(delivery: Delivery) -> str:
    """What a source is called between two steps: always the same, and ignored in the inbox."""
    return f".batch-{delivery.id}.part"


def _is_same_file(source: int, folder: int, name: str) -> bool:
    status, ours = os.stat(name, dir_fd=folder, follow_symlinks=False), os.fstat(source)
    return (status.st_dev, status.st_ino) == (ours.st_dev, ours.st_ino)


def _rename_to_free(folder: int, name: str, to_folder: int, wish: str) -> None:
    """Rename a file, to `wish` or that with a number: an earlier file of this name is not written over."""
    for target in _numbered(wish):
        try:
            os.link(name, target, src_dir_fd=folder, dst_dir_fd=to_folder, follow_symlinks=False)
        except FileExistsError:
            continue
        except FileNotFoundError:
            raise
        except OSError:  # no hard links here, or none of somebody else's file
            with contextlib.suppress(FileNotFoundError):
                os.stat(target, dir_fd=to_folder, follow_symlinks=False)
                continue
            os.rename(name, target, src_dir_fd=folder, dst_dir_fd=to_folder)
            return
        os.unlink(name, dir_fd=folder)
        return


def _numbered(name: str) -> Iterator[str]:
    yield name
    for number in itertools.count(2):
        numbered = f"{number}-{name}"
        yield numbered if len(os.fsencode(numbered)) <= NAME_BYTES else shortened(numbered, "")


def _chunks(source: int) -> Iterator[bytes]:
    at = 0
    while chunk := os.pread(source, _COPY_BYTES, at):
        at += len(chunk)
        yield chunk
