"""Names in the inbox and in the outbox: which are ignored, and what each source's results are called.

Paths are relative to the inbox, with "/" between parts, as str with surrogateescape (any bytes survive).
"""

from __future__ import annotations

import hashlib
import os
import re

RULES_FILE = ".batch.toml"
RESULTS = (".json", ".txt", ".srt", ".vtt")
"""What results are called behind their source's name; .json means done."""
ERROR = ".error.json"
_NAME_MAX = 255
_ENDINGS = (".part", ".crdownload", ".download", ".tmp", ".partial", "~")
_DESKTOP = frozenset({"thumbs.db", "desktop.ini", ".ds_store"})
_TAGGED = re.compile(r"~[0-9a-f]{12}\Z")


def ignored(name: str) -> bool:
    """Whether a file of this name is nobody's drop: hidden, half-downloaded, an editor's or a desktop's own."""
    return name.startswith((".", "~")) or name.lower().endswith(_ENDINGS) or name.lower() in _DESKTOP


def result_stem(path: str) -> str:
    """Where the results of a source lie in the outbox, without their endings.

    The source's own path wherever that is possible. No two sources share a result file: names that are too long, that
    would read as another's results, or that look like a name made here carry twelve digits of their hash instead.
    """
    folder, _, name = path.rpartition("/")
    parts = [_plain(part, part.endswith(RESULTS), 0) for part in folder.split("/")] if folder else []
    return "/".join([*parts, _plain(name, name.endswith(".error"), len(ERROR))])


def _plain(name: str, taken: bool, spare: int) -> str:
    raw = os.fsencode(name)
    if not taken and len(raw) + spare <= _NAME_MAX and not _TAGGED.search(name):
        return name
    tag = "~" + hashlib.sha256(raw).hexdigest()[:12]
    cut = raw[: _NAME_MAX - spare - len(tag)]
    while cut and not _ends_whole(cut, raw):
        cut = cut[:-1]
    return os.fsdecode(cut) + tag


def _ends_whole(cut: bytes, raw: bytes) -> bool:
    """Whether a cut falls between characters: the next byte is no UTF-8 continuation."""
    return len(cut) == len(raw) or raw[len(cut)] & 0xC0 != 0x80


def readable(path: str) -> str:
    """A path as valid Unicode: bytes that are no UTF-8 stand as \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def one_line(path: str) -> str:
    """A path for a line of a list or a sentence: control characters are escaped too."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in readable(path))
