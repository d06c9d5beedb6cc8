"""Walking the inbox: every folder with the files in it, but the service's own folders and what links lead to."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator

from batch.folder.inbox.ignore import IgnoreRules
from batch.folder.safe_open import open_folder_below
from batch.settings import Settings

MAX_DEPTH = 128
"""Folders within folders; deeper ones are not entered, as each level costs time at every scan."""
_Identity = tuple[int, int]
"""Device and inode."""


class InboxWalk:
    """Remembers which folders could not be looked into. Use from one thread at a time."""

    def __init__(self, settings: Settings, ignore_of: Callable[[str], IgnoreRules], is_going: Callable[[], bool]) -> None:
        """`ignore_of` gives the rules that hold in a folder. Walks end early when no longer `is_going`."""
        self._ignore_of = ignore_of
        self._root = os.fspath(settings.inbox_dir)
        self._own_paths = [os.fspath(path) for path in (settings.done_dir, settings.outbox_dir, settings.state_dir)]
        self._is_going = is_going
        self._failing: set[str] = set()
        """Folders that could not be looked into when that was tried last."""
        self._unreadable: set[str] = set()
        """Those of them that were reported."""
        self._newly_unreadable: dict[str, OSError] = {}
        self._newly_readable: set[str] = set()
        self._is_first_walk = True

    def folders(self, start: str = "") -> Iterator[tuple[str, Iterator[str]]]:
        """Every folder below `start` with the paths of what it holds but folders."""
        own = self._own_folders()
        stack = [start]
        while stack and self._is_going():
            folder = stack.pop()
            if folder.count("/") >= MAX_DEPTH:
                self._note_unreadable(folder, OSError(errno.ENAMETOOLONG, f"it lies deeper than {MAX_DEPTH} folders"))
                continue
            try:
                descriptor = open_folder_below(self._root, folder)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                self._note_unreadable(folder, error)
                continue
            inner: list[str] = []
            try:
                if _identity(os.fstat(descriptor)) in own:
                    continue
                self._failing.discard(folder)
                with os.scandir(descriptor) as entries:
                    yield folder, self._files(folder, entries, inner)
                if folder not in self._failing and (self._is_first_walk or folder in self._unreadable):
                    self._newly_readable.add(folder)
            except OSError as error:
                self._note_unreadable(folder, error)
            finally:
                os.close(descriptor)
            stack.extend(inner)
        self._is_first_walk = self._is_first_walk and bool(start)

    def _files(self, folder: str, entries: Iterable[os.DirEntry[str]], inner: list[str]) -> Iterator[str]:
        ignore = self._ignore_of(folder)
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            try:
                is_folder = entry.is_dir(follow_symlinks=False)
            except OSError:
                continue
            if is_folder:
                if ignore.is_folder_entered(path):
                    inner.append(path)
            elif not ignore.is_file_ignored(path):
                yield path

    def is_out_of_bounds(self, path: str) -> bool:
        """Whether a path leads into the outbox, the done folder or the state folder, under whatever name, or too deep."""
        if path.count("/") > MAX_DEPTH:
            return True
        own = self._own_folders()
        parts = path.split("/")
        for depth in range(len(parts) + 1):
            try:
                status = os.lstat(os.path.join(self._root, *parts[:depth]))
            except OSError:
                return False
            if _identity(status) in own:
                return True
        return False

    def _own_folders(self) -> set[_Identity]:
        """By device and inode: links, bind mounts and names in another case lead to the same."""
        own = set()
        for path in self._own_paths:
            try:
                own.add(_identity(os.stat(path)))
            except OSError:
                continue
        return own

    # -- folders that cannot be looked into

    def note_unreadable_file(self, path: str, error: OSError) -> None:
        """A file's status cannot be read: its folder lets nobody in."""
        self._note_unreadable(path.rpartition("/")[0], error)

    def _note_unreadable(self, folder: str, error: OSError) -> None:
        self._failing.add(folder)
        self._newly_readable.discard(folder)
        if folder not in self._unreadable:
            self._unreadable.add(folder)
            self._newly_unreadable[folder] = error

    def take_unreadable(self) -> dict[str, OSError]:
        """Folders that could not be looked into for the first time since the last call, and why."""
        unreadable, self._newly_unreadable = self._newly_unreadable, {}
        return unreadable

    def take_readable(self) -> set[str]:
        """Folders that can be looked into and could not before, as far as this walk or an earlier service knows."""
        readable, self._newly_readable = self._newly_readable, set()
        self._unreadable -= readable
        self._failing -= readable
        return readable


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino
