"""Names in the inbox and in the outbox: which are ignored, and what each source's results are called.

Paths are relative to the inbox, with "/" between parts, as str with surrogateescape (any bytes survive).
"""

from __future__ import annotations

import hashlib
import os
import re

SETTINGS_FILE = ".batch.toml"
RESULT_ENDINGS = (".json", ".txt", ".srt", ".vtt")
"""What results are called behind their source's name; .json means done."""
ERROR_ENDING = ".error.json"
NAME_BYTES = 255
_PARTIAL_ENDINGS = (".part", ".crdownload", ".download", ".tmp", ".partial", "~")
_DESKTOP_FILES = frozenset({"thumbs.db", "desktop.ini", ".ds_store"})
_HASH_ENDING = re.compile(r"~[0-9a-f]{12}\Z")


def is_ignored(name: str) -> bool:
    """Whether a file of this name was not dropped by anybody: hidden, half-downloaded, an editor's or a desktop's own."""
    return name.startswith((".", "~")) or name.lower().endswith(_PARTIAL_ENDINGS) or name.lower() in _DESKTOP_FILES


def result_stem(path: str) -> str:
    """Where the results of a source lie in the outbox, without their endings.

    The source's own path wherever that is possible. No two sources share a result file: names that are too long, that
    would read as another's results, or that look like a name made here carry twelve digits of their hash instead.
    """
    folder, _, name = path.rpartition("/")
    parts = [_unique_name(part, part.endswith(RESULT_ENDINGS), 0) for part in folder.split("/")] if folder else []
    return "/".join([*parts, _unique_name(name, name.endswith(".error"), len(ERROR_ENDING))])


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
