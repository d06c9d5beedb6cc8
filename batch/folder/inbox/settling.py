"""Files that were seen in the inbox and have to stand still before they are read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from batch.folder.inbox.entry import InboxEntry, inspect
from batch.folder.inbox.source_file import Candidate
from batch.settings import FolderSettings

MAX_SETTLING_FILES = 50_000
"""Files that are watched settling; the rest are seen again by a later scan."""
_RETRY_S = 1.0
"""Least seconds until a file that could not be read just now is looked at again."""


@dataclass(slots=True)
class _SettlingFile:
    entry: InboxEntry
    still_since: float
    """time.monotonic() when it was first seen as it is."""
    due: float
    """time.monotonic() when it may be ready."""
    settings: FolderSettings
    is_closed: bool = False
    """Its writer was seen to close it, or to give it its name, since it changed last."""


class Settling:
    """Watches files until they stand still. Use from one thread at a time."""

    def __init__(self, root: str, settings_of: Callable[[str], FolderSettings]) -> None:
        """`settings_of` gives the settings that hold for a path."""
        self._root = root
        self._settings_of = settings_of
        self._files: dict[str, _SettlingFile] = {}
        self._ready: dict[str, Candidate] = {}

    def watch(self, path: str, entry: InboxEntry, *, is_closed: bool = False) -> None:
        """Begin to watch a file, or note that it changed, or that its writer closed it."""
        before = self._files.get(path)
        if before is not None and before.entry.stamp.has_same_content(entry.stamp):
            before.is_closed = before.is_closed or is_closed
            if is_closed:
                before.due = min(before.due, time.monotonic() + before.settings.settle)
            return
        if path in self._ready or (before is None and len(self._files) >= MAX_SETTLING_FILES):
            return
        now, settings = time.monotonic(), self._settings_of(path)
        self._files[path] = _SettlingFile(entry, now, now + settings.settle, settings, is_closed)

    def watch_longer(self, candidate: Candidate, *, is_unsure: bool = False, wait_s: float = 0.0) -> None:
        """Go on watching a file that could not be read: it changed, it is open for writing, nobody can tell whether it is
        (`is_unsure`), or there is no room for it. It is ready again in `wait_s` seconds at the earliest."""
        try:
            entry = inspect(self._root, candidate.path)
        except OSError:
            return
        if entry is None:
            return
        now, settings = time.monotonic(), self._settings_of(candidate.path)
        # At least a second: whatever kept it from being read is not to be tried without a pause.
        wait = max(_RETRY_S, settings.settle, wait_s)
        if is_unsure:
            wait = max(wait, settings.settle_unsure - settings.settle)
        still_since = now - settings.settle if entry.stamp.has_same_content(candidate.entry.stamp) else now
        self._files[candidate.path] = _SettlingFile(entry, still_since, now + wait, settings)

    def next_due(self) -> float | None:
        """time.monotonic() when the next file may have stood still for long enough; None when there is none."""
        if self._ready:
            return 0.0
        return min((file.due for file in self._files.values()), default=None)

    def advance(self) -> int:
        """See which files stand still; returns how many are ready to be read."""
        now = time.monotonic()
        for path, file in list(self._files.items()):
            if now < file.due:
                continue
            try:
                entry = inspect(self._root, path)
            except OSError:
                entry = None
            if entry is None:
                del self._files[path]
            elif not entry.stamp.has_same_content(file.entry.stamp):
                self._files[path] = _SettlingFile(entry, now, now + file.settings.settle, file.settings)
            else:
                del self._files[path]
                is_surely_closed = file.is_closed or now - file.still_since >= file.settings.settle_unsure
                self._ready[path] = Candidate(path, entry, is_surely_closed)
        return len(self._ready)

    def ready(self) -> Iterable[Candidate]:
        """Files that stand still, the first ones first."""
        return self._ready.values()

    def remove(self, path: str) -> None:
        """A ready file was read, or is being read."""
        del self._ready[path]

    def put_last(self, path: str) -> None:
        """A ready file has to wait: the others are tried before it."""
        self._ready[path] = self._ready.pop(path)
