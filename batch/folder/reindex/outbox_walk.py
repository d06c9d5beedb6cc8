"""The outbox's JSON files one after the other, in an order in which a broken-off walk can go on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from batch.folder.file_names import ERROR_ENDING
from batch.folder.safe_open import is_regular_file, open_below

MAX_RESULT_BYTES = 256 << 20
"""Of a JSON file that is read: what is larger is named and left out."""


def result_paths(root: str, after: str | None = None) -> Iterator[str]:
    """Paths below the outbox of all results, those behind `after` only; no link is followed.

    The names of one folder at a time are in memory.
    """
    yield from _walk(root, (), None if after is None else tuple(os.fsencode(after).split(b"/")))


def read_result(root: str, path: str) -> bytes | None:
    """The bytes of a result; None where it is too large. Raises OSError where it cannot be opened."""
    with open(open_below(root, path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        # no more than that: the memory for a quarter of a gigabyte costs more than all else that is done with a small file
        return file.read(size) if size <= MAX_RESULT_BYTES else None


def _walk(root: str, folders: Sequence[bytes], after: tuple[bytes, ...] | None) -> Iterator[str]:
    try:
        descriptor = os.open(os.path.join(os.fsencode(root), *folders), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        names = sorted(map(os.fsencode, os.listdir(descriptor)))
        skipped = after[len(folders)] if after is not None and len(after) > len(folders) else b""
        for name in names:
            if name < skipped or name.startswith(b"."):
                continue
            path = os.fsdecode(b"/".join((*folders, name)))
            if name.endswith(b".json") and is_regular_file(descriptor, os.fsdecode(name)):
                if not path.endswith(ERROR_ENDING) and (after is None or os.fsencode(path).split(b"/") != list(after)):
                    yield path
            else:
                yield from _walk(root, (*folders, name), after if name == skipped else None)
    finally:
        os.close(descriptor)
