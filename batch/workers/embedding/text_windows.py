"""Cutting a long text into overlapping windows that each fit the model, with their place in the text."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

# A word with the white space before it, or one character of a script that is written without spaces.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002ebe0"
_WORD = re.compile(rf"\s*(?:[{_UNSPACED}]|[^\s{_UNSPACED}]+)|\s+\Z")
_LONGEST_WORD = 64
"""Characters after which an unbroken run is cut anyway."""
OVERLAP = 64
"""Tokens that two neighbouring windows share at most."""


class Window(NamedTuple):
    """Characters start (first) to end (one past the last) of a text."""

    start: int
    end: int


def windows(
    text: str,
    room: int,
    count: Callable[[str], int],
    overlap: int = OVERLAP,
    between: Callable[[], object] = lambda: None,
) -> list[Window]:
    """Cut `text` at word borders into windows of at most `room` tokens, each sharing up to `overlap` with the last.

    `count` gives the tokens of a piece without special tokens. Every character is in a window; a text that fits, the
    empty one too, is one window. `between` is called every few thousand words.
    """
    counted = lru_cache(1 << 16)(count)
    ends = array("q")  # of the words, in characters; arrays, as a long text has millions
    sums = array("q", [0])  # tokens of all the words so far
    for n, (start, end) in enumerate(_words(text)):
        ends.append(end)
        sums.append(sums[-1] + counted(text[start:end]))
        if n % 4096 == 4095:
            between()
    if sums[-1] <= room:
        return [Window(0, len(text))]
    overlap = min(overlap, room // 2)
    found: list[Window] = []
    first = 0
    while True:
        last = first + 1
        while last < len(ends) and sums[last + 1] - sums[first] <= room:
            last += 1
        # Words do not always add up: a tokeniser may split a run of words into more tokens than its words alone.
        while last > first + 1 and count(_piece(text, ends, first, last)) > room:
            last -= max(1, (last - first) // 16)
        # Where words cost more together, a later start may reach no further: what lies inside the window before is none.
        if not found or ends[last - 1] > found[-1].end:
            found.append(Window(ends[first - 1] if first else 0, ends[last - 1]))
        if last == len(ends):
            return _without_leading_space(text, found)
        back = last
        while back > first + 1 and sums[last] - sums[back - 1] <= overlap:
            back -= 1
        first = back


def _piece(text: str, ends: Sequence[int], first: int, last: int) -> str:
    return text[ends[first - 1] if first else 0 : ends[last - 1]]


def _words(text: str) -> Iterator[tuple[int, int]]:
    """Borders of the words; together they cover the text."""
    for match in _WORD.finditer(text):
        start, end = match.span()
        body = end - len(match.group().lstrip())
        cuts = [start, *range(body + _LONGEST_WORD, end, _LONGEST_WORD), end]
        yield from pairwise(cuts)


def _without_leading_space(text: str, found: list[Window]) -> list[Window]:
    """Windows after the first begin at their first visible character."""
    shown = []
    for i, (start, end) in enumerate(found):
        piece = text[start:end]
        shift = len(piece) - len(piece.lstrip()) if i else 0
        shown.append(Window(start + (shift if shift < len(piece) else 0), end))
    return shown
