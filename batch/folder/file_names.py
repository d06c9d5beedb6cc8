"""Names in the inbox and in the outbox: which are ignored, and what each source's results are called.

Paths are relative to the inbox, with "/" between parts, as str with surrogateescape (any bytes survive).
"""

from __future__ import annotations

import hashlib
import os
import re

SETTINGS_FILE = ".batch.toml"
BATCH_OUTPUT_ENDING, BATCH_ERRORS_ENDING = ".output.jsonl", ".errors.jsonl"
RESULT_ENDINGS = (".json", ".txt", ".srt", ".vtt")
"""What results are called behind their source's name; .json means done."""
ERROR_ENDING = ".error.json"
REQUESTS_ENDING = ".jsonl"
NAME_BYTES = 255
_UNFINISHED_ENDINGS = (
    *(".part", ".partial", ".filepart", ".crdownload", ".download", ".opdownload", ".unfinished", ".aria2", ".tmp", ".swp"),
    *(".!qb", ".!ut", "~"),
)
"""Downloads and copies under way, and editors' own files, in lower case."""
_SIDECAR_ENDINGS = (".xmp", ".aae", ".thm", ".lnk", ".url")
"""What cameras, photo programs and desktops put beside the files that people mean."""
_DESKTOP_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
_DESKTOP_FOLDERS = frozenset(
    {"@eadir", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "__macosx", "lost+found"}
)
"""Folders of storage boxes, archives and desktops."""
_HASH_ENDING = re.compile(r"~[0-9a-f]{12}\Z")


def result_endings(path: str) -> tuple[str, ...]:
    """What the results of a source can be called behind its name."""
    is_requests = path.lower().endswith(REQUESTS_ENDING)
    return (*RESULT_ENDINGS, BATCH_OUTPUT_ENDING, BATCH_ERRORS_ENDING) if is_requests else RESULT_ENDINGS


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is never taken: it begins with "." or "~"."""
    return name.startswith((".", "~"))


def is_ignored(name: str) -> bool:
    """Whether a file of this name was not dropped by anybody: hidden, unfinished, an editor's or a desktop's own.

    All but hidden names can be taken all the same, by a pattern in `folder.ignore`.
    """
    lower = name.lower()
    return is_hidden(name) or lower.endswith((*_UNFINISHED_ENDINGS, *_SIDECAR_ENDINGS)) or lower in _DESKTOP_FILES


def is_default_folder(name: str) -> bool:
    """Whether a folder of this name is a storage box's, an archive's or a desktop's own."""
    return name.lower() in _DESKTOP_FOLDERS


def result_stem(path: str) -> str:
    """Where the results of a source lie in the outbox, without their endings.

    The source's own path wherever that is possible. No two sources share a result file: names that are too long, that
    would read as another's results, or that look like a name made here carry twelve digits of their hash instead.
    """
    folder, _, name = path.rpartition("/")
    reserved = max(len(ERROR_ENDING), *map(len, result_endings(path)))
    reserved_endings = (*RESULT_ENDINGS, BATCH_OUTPUT_ENDING, BATCH_ERRORS_ENDING)
    parts = [_unique_name(part, part.endswith(reserved_endings), 0) for part in folder.split("/")] if folder else []
    return "/".join([*parts, _unique_name(name, name.endswith(".error"), reserved)])


def _unique_name(name: str, is_taken: bool, ending_bytes: int) -> str:
    raw = os.fsencode(name)
    if not is_taken and len(raw) + ending_bytes <= NAME_BYTES and not _HASH_ENDING.search(name):
        return name
    return shortened(name, "~" + hashlib.sha256(raw).hexdigest()[:12], NAME_BYTES - ending_bytes)


def shortened(name: str, ending: str, limit: int = NAME_BYTES) -> str:
    """A name that ends in `ending` (ASCII) and has at most `limit` bytes, cut between characters."""
    raw = os.fsencode(name)
    cut = raw[: limit - len(ending)]
    while cut and not _ends_whole(cut, raw):
        cut = cut[:-1]
    return os.fsdecode(cut) + ending


def _ends_whole(cut: bytes, raw: bytes) -> bool:
    """Whether a cut falls between characters: the next byte is no UTF-8 continuation."""
    return len(cut) == len(raw) or raw[len(cut)] & 0xC0 != 0x80


def readable(path: str) -> str:
    """A path as valid Unicode: bytes that are no UTF-8 stand as \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def one_line(path: str) -> str:
    """A path for a line of a list or a sentence: control characters, and marks that turn text around, are escaped too."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in readable(path))
