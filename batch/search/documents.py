"""What goes into the search index: a content's text with its places in time, and its vectors."""

from __future__ import annotations

import bisect
import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from batch.media.kind import MediaKind

if TYPE_CHECKING:
    from batch.search.index.vectors import Matrix

MAX_PASSAGES = 500
"""Of one content: what stands behind them, in a book or a recording of days, is not in the index."""
MAX_PASSAGE_CHARS = 1200
"""Of a passage where no vectors say how the text is cut."""
OVERLAP_CHARS = 120
"""That two such passages share, so that a phrase at their border is found."""


class Moment(NamedTuple):
    """From character `char` of a text on, its speaker is at `start` to `end` seconds of the recording."""

    char: int
    start: float
    end: float


class IndexedContent(msgspec.Struct, frozen=True, kw_only=True):
    """One content as the index takes it in."""

    content: str
    """Equal for the same bytes, parameters and models."""
    sha256: str
    kind: MediaKind
    language: str | None
    """Of the speech in it."""
    model: str | None
    """What captioned or heard it."""
    created: float
    """Unix seconds."""
    text: str
    moments: list[Moment] = []
    """In order of their characters; empty for what is no recording."""
    windows: list[tuple[int, int]] = []
    """First character and one past the last of each vector's part of the text."""
    vectors: Matrix | None = None
    """(windows, dimensions), each of length 1."""
    embedding_model: str = ""


class Passage(msgspec.Struct, frozen=True):
    """A part of a text that is found as a whole."""

    text: str
    char_start: int
    """Of the whole text."""
    moments: list[Moment]
    """Characters count from the passage's first."""

    @property
    def start(self) -> float | None:
        """Seconds; None for what is no recording."""
        return self.moments[0].start if self.moments else None

    @property
    def end(self) -> float | None:
        """Seconds; None for what is no recording."""
        return self.moments[-1].end if self.moments else None


def content_key(sha256: str, kind: MediaKind, parameters_json: bytes) -> str:
    """Equal for the same bytes of which the same was asked."""
    return f"{sha256}:{kind}:{hashlib.sha256(parameters_json).hexdigest()[:16]}"


def passages_of(document: IndexedContent) -> Iterator[Passage]:
    """The passages of a content: one a vector where it has vectors, else parts of like length."""
    spans = document.windows if document.vectors is not None else _spans(document.text)
    chars = [moment.char for moment in document.moments]
    for start, end in islice(spans, MAX_PASSAGES):
        first = max(0, bisect.bisect_right(chars, start) - 1)
        last = bisect.bisect_left(chars, end)
        moments = [Moment(max(0, moment.char - start), moment.start, moment.end) for moment in document.moments[first:last]]
        yield Passage(document.text[start:end], start, moments)


def moment_at(moments: Sequence[Moment], char: int) -> Moment | None:
    """The moment in which a character is said."""
    place = bisect.bisect_right([moment.char for moment in moments], char) - 1
    return moments[max(0, place)] if moments else None


def _spans(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    while len(text) - start > MAX_PASSAGE_CHARS:
        end = start + MAX_PASSAGE_CHARS
        cut = max(text.rfind(sign, start + MAX_PASSAGE_CHARS // 2, end) for sign in (" ", "\n", "。", "、", "，"))
        end = cut + 1 if cut > 0 else end
        yield start, end
        back = max(text.rfind(sign, end - OVERLAP_CHARS, end - 1) for sign in (" ", "\n", "。", "、", "，"))
        start = back + 1 if back > start else end - OVERLAP_CHARS
    yield start, len(text)


def moments_json(moments: Sequence[Moment]) -> str | None:
    """A passage's moments as its row has them."""
    if not moments:
        return None
    return json.dumps([[m.char, round(m.start, 3), round(m.end, 3)] for m in moments], separators=(",", ":"))


def moments_from_json(text: str | None) -> list[Moment]:
    """What `moments_json` wrote."""
    return [] if text is None else [Moment(*moment) for moment in json.loads(text)]
