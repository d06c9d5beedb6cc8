"""What the full-text index holds of a text: folded, and scripts without spaces cut into pairs of characters.

SQLite's tokenizer finds words by spaces. Chinese, Japanese, Korean (whose particles stick to the words), Thai, Lao, Khmer
and Burmese get a space behind every overlapping pair of characters and behind the last character of a run, so that any
part of a run can be found: one character as the beginning of a pair, two as a pair, more as pairs in a row.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import groupby

from batch.media.scripts import UNSPACED_RANGES

_HANGUL = ((0x1100, 0x11FF), (0x3130, 0x318F), (0xA960, 0xA97F), (0xAC00, 0xD7FF))
_RANGES = (*UNSPACED_RANGES, *_HANGUL)
_DROPPED = re.compile("[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0640]")
"""Accents, and the vowel points and joining strokes of Hebrew and Arabic: people search without them."""
_PLANES = {0x2: 0xF0000, 0x3: 0x100000}
"""SQLite's tokenizer does not know the newest Chinese characters to be letters, but private ones are."""
_NEW_LETTERS = ((0x4DB6, 0x4DBF, 0xE000), (0x9FCD, 0x9FFF, 0xE100), (0x31BB, 0x31BF, 0xE200))
_PRIVATE = {code: base + code - first for first, last, base in _NEW_LETTERS for code in range(first, last + 1)}


def _is_word_sign(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNM"


@cache
def _runs_of_unspaced() -> re.Pattern[str]:
    """Finds runs of letters, marks and digits of the scripts that are cut into pairs; made when first asked for."""
    ranges: list[str] = []
    for first, last in _RANGES:
        if first >= 0x20000:  # nothing but letters, or not assigned yet
            ranges.append(f"{chr(first)}-{chr(last)}")
            continue
        for is_word_sign, run in groupby(map(chr, range(first, last + 1)), _is_word_sign):
            if is_word_sign:
                characters = "".join(run)
                ranges.append(f"{characters[0]}-{characters[-1]}")
    return re.compile(f"[{''.join(ranges)}]+")


def fold(text: str) -> str:
    """A text as it is compared: NFKC, without case, without accents that stand apart, vowel points and strokes."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return _DROPPED.sub("", folded)


def index_text(text: str) -> str:
    """What the index holds of a text."""
    return _runs_of_unspaced().sub(lambda run: f" {' '.join(_pairs(run[0]))} {_private(run[0][-1])} ", fold(text))


def phrase_text(text: str) -> tuple[str, bool]:
    """What to look for in the index so that a text is found as it stands: words in a row, and whether the last of them
    is only the beginning of one. Empty where the text has no letter or digit."""
    folded = fold(text)
    parts: list[str] = []
    is_prefix = False
    end = 0
    for run in _runs_of_unspaced().finditer(folded):
        parts.append(folded[end : run.start()])
        end = run.end()
        is_last = not has_words(folded[end:])
        pairs = _pairs(run[0])
        if not is_last or not pairs:
            pairs.append(_private(run[0][-1]))
        is_prefix = is_last and len(run[0]) == 1
        parts.append(" ".join(pairs))
    parts.append(folded[end:])
    joined = " ".join(parts)
    return (joined, is_prefix) if has_words(joined) else ("", False)


def has_words(text: str) -> bool:
    """Whether a text has a letter or digit."""
    return any(category[0] in "LN" or category == "Co" for category in map(unicodedata.category, text))


def runs(folded: str) -> Iterator[re.Match[str]]:
    """The runs of a folded text that are cut into pairs."""
    return _runs_of_unspaced().finditer(folded)


def is_run(character: str) -> bool:
    """Whether a folded character belongs to a script that is cut into pairs."""
    return _runs_of_unspaced().match(character) is not None


def _pairs(run: str) -> list[str]:
    letters = _private_run(run)
    return [letters[i : i + 2] for i in range(len(letters) - 1)]


def _private_run(run: str) -> str:
    return "".join(map(_private, run)) if any(ord(c) >= 0x20000 or ord(c) in _PRIVATE for c in run) else run


@lru_cache(1 << 12)
def _private(character: str) -> str:
    code = ord(character)
    if base := _PLANES.get(code >> 16):
        return chr(min(base + (code & 0xFFFF), base + 0xFFFD))
    return chr(_PRIVATE.get(code, code))
