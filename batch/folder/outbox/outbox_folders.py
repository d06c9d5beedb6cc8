"""The outbox's folders, held open by descriptor while a group of results is written."""

from __future__ import annotations

import os
from pathlib import Path

from batch.durable_folder import sync_folder
from batch.folder.file_names import result_stem
from batch.folder.outbox.access import make_folder, make_folders
from batch.folder.safe_open import FOLDER_FLAGS, is_regular_file, open_folder_below
from batch.settings import Access


class OutboxFolders:
    """Opens each folder once, makes the missing ones, and follows no link below the outbox. Close it after the group."""

    def __init__(self, root: str, access: Access) -> None:
        """`access`: who may look into folders that are made. Raises OSError where the outbox cannot be opened or made."""
        self._access = access
        make_folders(Path(root), access)
        self._descriptors = {"": os.open(root, FOLDER_FLAGS)}
        self._unsynced: set[str] = set()

    def open(self, folder: str) -> int:
        """The descriptor of a folder below the outbox, made where it is missing; stays this object's own.

        Raises OSError where a link or a file stands in its place.
        """
        here = ""
        names = folder.split("/") if folder else []
        for depth in range(len(names), 0, -1):  # from the nearest folder that is open already
            if (path := "/".join(names[:depth])) in self._descriptors:
                here, names = path, names[depth:]
                break
        for name in names:
            path = f"{here}/{name}" if here else name
            parent = self._descriptors[here]
            try:
                descriptor = open_folder_below(parent, name)
            except FileNotFoundError:
                make_folder(name, self._access, dir_fd=parent)
                self._unsynced.add(here)
                descriptor = open_folder_below(parent, name)
            self._descriptors[path] = descriptor
            here = path
        return self._descriptors[folder]

    def note_change(self, folder: str) -> None:
        """Have `sync` put a folder's entries on disk."""
        self._unsynced.add(folder)

    def sync(self) -> dict[str, OSError]:
        """Put changed folders on disk, as a rename is when its folder is; returns those that could not be, with why."""
        failures = {}
        for folder in sorted(self._unsynced):
            try:
                sync_folder(self._descriptors[folder])
            except OSError as error:
                failures[folder] = error
        self._unsynced.clear()
        return failures

    def close(self) -> None:
        """Close every folder."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])


def has_result(outbox: str, path: str) -> bool:
    """Whether a source's JSON lies in the outbox, as a file and below it; `path` is the source's below the inbox."""
    folder, _, name = result_stem(path).rpartition("/")
    try:
        descriptor = open_folder_below(outbox, folder)
    except OSError:
        return False
    try:
        return is_regular_file(descriptor, f"{name}.json")
    finally:
        os.close(descriptor)
