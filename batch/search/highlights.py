"""Which part of a passage a hit shows, and where a query's words stand in it."""

from __future__ import annotations

import bisect
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from batch.search.query_language import Term
from batch.search.segmentation import fold, is_run

MAX_SHOWN_CHARS = 300
LEAD_CHARS = 80
"""Shown before the first word that was found."""
MAX_COMPARED_WORDS = 4000
"""Of a text, with those of a query: words that are looked for over and over in a text that repeats them would take minutes."""
ELLIPSIS = "…"


class Excerpt(NamedTuple):
    """A part of a passage."""

    text: str
    highlights: list[tuple[int, int]]
    """Characters of `text`: first, and one past the last."""
    char: int
    """Of the passage: where the best match begins, or its first character."""


class FoldedText:
    """A text as it is compared, with the place of each of its characters in the text itself."""

    def __init__(self, text: str) -> None:
        parts = list(map(_folded_character, text))
        self._places: Sequence[int] = range(len(text))
        if any(len(part) != 1 for part in parts):
            self._places = [place for place, part in enumerate(parts) for _ in part]
        self.folded = "".join(parts)

    def find(self, terms: Sequence[Term]) -> list[tuple[int, int]]:
        """Where terms stand in the text, in order, overlapping ones joined; of very many places the first of each term."""
        distinct = dict.fromkeys(terms)
        share = MAX_COMPARED_WORDS // max(1, len(distinct))
        spans = sorted(span for term in distinct for span in self._occurrences(term, share))
        joined: list[tuple[int, int]] = []
        for start, end in spans:
            if joined and start <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
            else:
                joined.append((start, end))
        return joined

    def _occurrences(self, term: Term, max_words: int) -> Iterator[tuple[int, int]]:
        words = _split(_bare(fold(term.text)))
        if not words:
            return
        # Within scripts without spaces a word begins and ends anywhere.
        begins_anywhere = is_run(words[0][0])
        ends_anywhere = term.is_prefix or is_run(words[-1][-1])
        start, compared = self.folded.find(words[0]), 0
        while start >= 0 and compared < max_words:
            end, number = self._end_of(words, start)
            compared += number
            if (
                end is not None
                and (begins_anywhere or start == 0 or not _is_word_sign(self.folded[start - 1]))
                and (ends_anywhere or end == len(self.folded) or not _is_word_sign(self.folded[end]))
            ):
                yield self._places[start], self._places[end - 1] + 1
            start = self.folded.find(words[0], start + 1)

    def _end_of(self, words: Sequence[str], start: int) -> tuple[int | None, int]:
        """Where words in a row end that begin at `start`, None where others stand there; and how many were compared."""
        end = start + len(words[0])
        for number, word in enumerate(words[1:], 2):
            next_start = end
            while next_start < len(self.folded) and not _is_word_sign(self.folded[next_start]):
                next_start += 1
            if next_start == end or not self.folded.startswith(word, next_start):
                return None, number
            end = next_start + len(word)
        return end, len(words)


def excerpt(text: str, terms: Sequence[Term]) -> Excerpt:
    """The part of a passage in which most of a query's words stand, or its beginning where none does."""
    spans = FoldedText(text).find(terms)
    first = _densest(spans) if spans else 0
    start = 0
    if len(text) > MAX_SHOWN_CHARS and first > LEAD_CHARS:
        start = first - LEAD_CHARS
        space = text.find(" ", start, first)
        start = space + 1 if space >= 0 else start
    lead = ELLIPSIS if start else ""
    end, tail = len(text), ""
    if end - start + len(lead) > MAX_SHOWN_CHARS:
        end, tail = start + MAX_SHOWN_CHARS - len(lead) - 1, ELLIPSIS
    shift = len(lead) - start
    highlights = [
        (max(span_start, start) + shift, min(span_end, end) + shift)
        for span_start, span_end in spans
        if span_start < end and span_end > start
    ]
    return Excerpt(lead + text[start:end] + tail, highlights, first)


def _densest(spans: Sequence[tuple[int, int]]) -> int:
    """Where the span begins behind which most others follow within what is shown."""
    starts = [start for start, _ in spans]
    followers = [bisect.bisect_left(starts, start + MAX_SHOWN_CHARS - LEAD_CHARS) - place for place, start in enumerate(starts)]
    return starts[followers.index(max(followers))]


def _split(text: str) -> list[str]:
    """The words of a folded text."""
    return "".join(character if _is_word_sign(character) else " " for character in text).split()


@lru_cache(1 << 15)
def _is_word_sign(character: str) -> bool:
    """Whether words are made of a character: letters, digits and their marks."""
    category = unicodedata.category(character)
    return category[0] in "LNM" or category == "Co"


@lru_cache(1 << 15)
def _folded_character(character: str) -> str:
    return _bare(fold(character))


def _bare(text: str) -> str:
    """A folded text without the accents that the full-text index passes over."""
    if text.isascii():
        return text
    decomposed = unicodedata.normalize("NFD", text)
    return unicodedata.normalize("NFC", "".join(c for c in decomposed if not "\u0300" <= c <= "\u036f"))
