"""Cutting a long text into overlapping windows that each fit the model, with their place in the text."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from batch.media.scripts import UNSPACED_CLASS, UNSPACED_MARKS

OVERLAP_TOKENS = 64
"""That two neighbouring windows share at most."""
MAX_PART_CHARS = 64
"""Where a run of letters without a space does not fit a window, it is cut after so many."""
YIELD_WORDS = 4096
MAX_COUNTED_WORDS = 1 << 16
"""Words whose tokens are remembered while a text is cut."""
# A word with the white space before it, or one character of a script that is written without spaces.
_WORD = re.compile(rf"\s*(?:[{UNSPACED_CLASS}][{UNSPACED_MARKS}]*|[^\s{UNSPACED_CLASS}]+)|\s+\Z")
_PART = re.compile(r"\s*\w+|\s*\W")
"""What an unbroken run is made of: letters and digits, or one sign."""


class Window(NamedTuple):
    """Characters start (first) to end (one past the last) of a text."""

    start: int
    end: int


def text_windows(
    text: str,
    max_tokens: int,
    count: Callable[[str], int],
    overlap_tokens: int = OVERLAP_TOKENS,
    yield_point: Callable[[], object] = lambda: None,
) -> list[Window]:
    """Cut `text` at word borders into windows of at most `max_tokens`, each sharing up to `overlap_tokens` with the last.

    `count` gives the tokens of a piece without special tokens. Every character is in a window; a text that fits, the
    empty one too, is one window. `yield_point` is called every few thousand words.
    """
    remembered = lru_cache(MAX_COUNTED_WORDS)(count)

    def count_tokens(word: str) -> int:
        return remembered(word) if len(word) <= MAX_PART_CHARS else count(word)

    ends = array("q")  # of the words, in characters; arrays, as a long text has millions
    sums = array("q", [0])  # tokens of all the words so far
    for n, (start, end) in enumerate(_word_borders(text, max_tokens, count_tokens)):
        ends.append(end)
        sums.append(sums[-1] + count_tokens(text[start:end]))
        if n % YIELD_WORDS == YIELD_WORDS - 1:
            yield_point()
    if sums[-1] <= max_tokens:
        return [Window(0, len(text))]
    overlap_tokens = min(overlap_tokens, max_tokens // 2)
    windows: list[Window] = []
    first = 0
    while True:
        last = first + 1
        while last < len(ends) and sums[last + 1] - sums[first] <= max_tokens:
            last += 1
        # Words do not always add up: a tokeniser may split a run of words into more tokens than its words alone.
        while last > first + 1 and count(_piece(text, ends, first, last)) > max_tokens:
            last -= max(1, (last - first) // 16)
        # Where words cost more together, a later start may reach no further: what lies inside the window before is none.
        if not windows or ends[last - 1] > windows[-1].end:
            windows.append(Window(ends[first - 1] if first else 0, ends[last - 1]))
        if last == len(ends):
            return _without_leading_space(text, windows)
        back = last
        while back > first + 1 and sums[last] - sums[back - 1] <= overlap_tokens:
            back -= 1
        first = back


def _piece(text: str, ends: Sequence[int], first: int, last: int) -> str:
    return text[ends[first - 1] if first else 0 : ends[last - 1]]


def _word_borders(text: str, max_tokens: int, count_tokens: Callable[[str], int]) -> Iterator[tuple[int, int]]:
    """(start, end) of the words; together they cover the text. A run that fits no window is cut into parts."""
    for match in _WORD.finditer(text):
        start, end = match.span()
        if end - start <= MAX_PART_CHARS:
            yield start, end
            continue
        for part in _PART.finditer(text, start, end):
            start, end = part.span()
            if end - start > MAX_PART_CHARS and count_tokens(part.group()) > max_tokens:
                for at in range(start, end, MAX_PART_CHARS):
                    yield at, min(end, at + MAX_PART_CHARS)
            else:
                yield start, end


def _without_leading_space(text: str, windows: list[Window]) -> list[Window]:
    """Windows after the first begin at their first visible character."""
    visible_windows = []
    for i, (start, end) in enumerate(windows):
        piece = text[start:end]
        shift = len(piece) - len(piece.lstrip()) if i else 0
        visible_windows.append(Window(start + (shift if shift < len(piece) else 0), end))
    return visible_windows
