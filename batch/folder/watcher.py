"""Events from the inbox: paths that are worth a look before the next scan."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Callable

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from batch.folder.inbox.inbox import Sighting

logger = logging.getLogger("batch.folder")
# It calls every ordinary end of a watch an error.
logging.getLogger("watchdog.observers.inotify").setLevel(logging.CRITICAL)
# Where a folder and its sub-folder appear together, it watches the inner one twice and warns. Where warnings are errors, that
# would end its reading thread, and with it all events.
warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning)
_EVENTS: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileClosedEvent,
    FileMovedEvent,
    FileDeletedEvent,
    DirCreatedEvent,
    DirMovedEvent,
]
_MAX_PATHS = 10_000
"""Paths remembered from events; when there are more, a full scan is cheaper."""
_STOP_TIMEOUT_S = 5.0


class InboxWatcher:
    """Gathers events in a thread of its own. Without events (no more watches to be had) scans find everything, later."""

    def __init__(self, root: str, report_event: Callable[[], None], scan_s: float) -> None:
        """`report_event` is called from the observer's thread."""
        self._root = root
        self._report_event = report_event
        self._scan_s = scan_s
        self._lock = threading.Lock()
        self._sightings: dict[str, Sighting] = {}
        self._has_too_many = False
        self._observer: BaseObserver | None = None
        self._inode: int | None = None
        self._complaint = ""

    @property
    def is_watching(self) -> bool:
        """Whether events come in."""
        return self._observer is not None

    def take_sightings(self) -> list[Sighting] | None:
        """What was seen since the last call; None when that was too much, and a scan is due."""
        with self._lock:
            sightings, self._sightings = list(self._sightings.values()), {}
            has_too_many, self._has_too_many = self._has_too_many, False
        return None if has_too_many else sightings

    def follow_inbox(self) -> bool:
        """See to it that events come from the folder that is the inbox now; whether a new watch was begun."""
        try:
            inode: int | None = os.stat(self._root).st_ino
        except OSError:
            inode = None
        if inode == self._inode and (inode is None or (self._observer is not None and self._observer.is_alive())):
            return False
        self.stop()
        self._inode = inode
        if inode is None:
            return False
        observer = Observer()
        try:
            observer.schedule(_Handler(self._note), self._root, recursive=True, event_filter=_EVENTS)
            observer.start()
            self._observer = observer
        except (OSError, RecursionError) as error:  # no more watches to be had; a tree deeper than Python's stack
            if str(error) != self._complaint:
                self._complaint = str(error)
                logger.warning(
                    "The inbox cannot be watched (%s): new files are found by a scan every %g seconds.", error, self._scan_s
                )
        return self._observer is not None

    def stop(self) -> None:
        """End the watch, if there is one."""
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()
            with contextlib.suppress(RuntimeError):  # it never started
                observer.join(_STOP_TIMEOUT_S)

    def _note(self, path: str, is_closed: bool) -> None:
        relative = os.path.relpath(path, self._root)
        if relative == ".." or relative.startswith("../"):
            return
        relative = "" if relative == "." else relative
        with self._lock:
            if relative in self._sightings or len(self._sightings) < _MAX_PATHS:
                self._sightings[relative] = Sighting(relative, is_closed)
            else:
                self._has_too_many = True
        self._report_event()


class _Handler(FileSystemEventHandler):
    def __init__(self, note: Callable[[str, bool], None]) -> None:
        self._note = note

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.src_path:
            self._note(os.fsdecode(event.src_path), isinstance(event, FileClosedEvent))
        if event.dest_path:
            self._note(os.fsdecode(event.dest_path), isinstance(event, FileMovedEvent))
