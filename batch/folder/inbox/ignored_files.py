"""The files of the inbox that are passed over, for people who wonder where their file is."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator

from batch.folder.folder_settings import FolderSettingsReader
from batch.folder.inbox.walk import MAX_DEPTH
from batch.folder.safe_open import open_folder_below
from batch.settings import Settings


def ignored_files(settings: Settings, start: str = "", deadline: float = math.inf) -> Iterator[str]:
    """Paths below the inbox, from a folder on, that no scan takes; folders that are passed over end in "/".

    No further folder is looked into once `time.monotonic()` is at `deadline`.
    """
    root = os.fspath(settings.inbox_dir)
    reader = FolderSettingsReader(root, settings.folder)
    stack = [start.strip("/")]
    while stack and time.monotonic() < deadline:
        folder = stack.pop()
        try:
            descriptor = open_folder_below(root, folder)
        except OSError:
            continue
        ignore = reader.for_folder(folder).ignore
        try:
            with os.scandir(descriptor) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if not entry.is_dir(follow_symlinks=False):
                        if ignore.is_file_ignored(path):
                            yield path
                    elif ignore.is_folder_entered(path) and path.count("/") < MAX_DEPTH:
                        stack.append(path)
                    else:
                        yield f"{path}/"
        except OSError:
            continue
        finally:
            os.close(descriptor)
