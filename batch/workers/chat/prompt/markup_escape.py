"""Where a rendered prompt's characters came from: a client's markup goes through the template in disguise.

Tokens such as `<|turn>` must only come from the template, never from what a client wrote. So every character of a client
that could be part of such a token is swapped, one for one, for a private-use character that the request does not hold,
and swapped back after rendering: whatever the template does with the text (trim, slice, split, join), what was
disguised is the client's.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from batch.errors import BadRequest

MEDIA_MARKER = "<__media__>"
"""Stands for a picture where a prompt is shown as one text."""
_BRACKETS = frozenset("<>|[]")
# Templates and JSON give these a meaning of their own.
_NEVER = frozenset("\"'\\ \t\r\n{}")
_PLANES = ((0x100000, 0x10FFFE), (0xF0000, 0xFFFFE))
_SURROGATE = re.compile("[\ud800-\udfff]")
# Private-use characters as Python's repr and JSON in ASCII write them: templates do either to a tool's description.
_ESCAPED = re.compile(r"\\U(00(?:0f|10)[0-9a-f]{4})|\\u(db[0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of prompt text, to be tokenised on its own."""

    text: str
    trusted: bool
    """True: special tokens that the template wrote; parse them. False: plain text; parse no special token in it."""


@dataclass(frozen=True, slots=True)
class Media:
    """Where the n-th media part of the messages stands."""

    index: int


class Specials:
    """The texts of the tokens that only a template may write."""

    def __init__(self, texts: Collection[str]) -> None:
        self.texts = frozenset(t for t in texts if t.strip())
        self.disguised = "".join(sorted(_disguised(self.texts)))
        self._lengths: dict[str, list[int]] = {}
        for text in sorted(self.texts, key=len, reverse=True):
            lengths = self._lengths.setdefault(text[0], [])
            if len(text) not in lengths:
                lengths.append(len(text))
        starts = "".join(re.escape(c) for c in sorted(self._lengths))
        self._start = re.compile(f"[{starts}]") if starts else re.compile(r"(?!)")

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """Every (start, end) where a special token's text stands, longest first at each start; they may overlap."""
        for match in self._start.finditer(text):
            at = match.start()
            for length in self._lengths[text[at]]:
                if text[at : at + length] in self.texts:
                    yield at, at + length
                    break


class Shadow:
    """One request's disguise."""

    def __init__(self, specials: Specials, media: int, texts: Iterable[str]) -> None:
        """`texts`: every string that the template will see, its own source too."""
        self._specials = specials
        count = len(specials.disguised) + media
        base = _unused_run(count, texts)
        hidden = {c: chr(base + media + i) for i, c in enumerate(specials.disguised)}
        self._hide = str.maketrans(hidden)
        self._show = str.maketrans({v: k for k, v in hidden.items()})
        self._hidden = re.compile(f"[{''.join(hidden.values())}]") if hidden else re.compile(r"(?!)")
        self.media = [chr(base + i) for i in range(media)]
        self._media = re.compile(f"([{''.join(self.media)}])") if media else re.compile(r"(?!)")
        self._base = base

    def hide(self, value: Any, keep: re.Pattern[str] | None = None) -> Any:
        """The same value with every string in it (keys too) disguised, but for what `keep` matches."""
        if isinstance(value, str):
            value = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", value)
            if keep is None:
                return value.translate(self._hide)
            markers = [m.group() for m in keep.finditer(value)]
            parts = [part.translate(self._hide) for part in keep.split(value)]
            return "".join(a + b for a, b in zip(parts, [*markers, ""], strict=True))
        if isinstance(value, Mapping):
            return {self.hide(k, keep): self.hide(v, keep) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide(v, keep) for v in value]
        return value

    def segments(self, rendered: str) -> list[Segment | Media]:
        """The rendered prompt in order, in plain characters again."""
        if "\\" in rendered:
            rendered = _ESCAPED.sub(self._unescape, rendered)
        segments: list[Segment | Media] = []
        for piece in self._media.split(rendered):
            if len(piece) == 1 and self._base <= ord(piece) < self._base + len(self.media):
                segments.append(Media(ord(piece) - self._base))
            elif piece:
                segments += self._split(piece)
        return segments

    def _unescape(self, match: re.Match[str]) -> str:
        char = chr(_code(match))
        return char if ord(char) in self._show or char in self.media else match.group()

    def _split(self, piece: str) -> list[Segment]:
        """Trusted runs of special tokens, and between them text that is cut inside whatever only reads like one."""
        hidden = [m.start() for m in self._hidden.finditer(piece)]
        text = piece.translate(self._show)
        pieces: list[Segment] = []
        start = end = 0  # the plain stretch before the next special token starts here; the last special ended there
        cuts: list[int] = []

        def plain(until: int) -> None:
            edges = [start, *[c for c in cuts if start < c < until], until]
            pieces.extend(Segment(text[a:b], False) for a, b in pairwise(edges) if a < b)
            cuts.clear()

        for a, b in self._specials.find(text):
            if a < end:
                continue
            first = bisect_left(hidden, a)
            if first < len(hidden) and hidden[first] < b:
                cuts.append(a + 1)
                continue
            plain(a)
            if pieces and pieces[-1].trusted and a == end:
                pieces[-1] = Segment(pieces[-1].text + text[a:b], True)
            else:
                pieces.append(Segment(text[a:b], True))
            start = end = b
        plain(len(text))
        return pieces


def text_of(segments: Iterable[Segment | Media], media_marker: str = MEDIA_MARKER) -> str:
    """The segments as one text, `media_marker` where media stand."""
    return "".join(media_marker if isinstance(s, Media) else s.text for s in segments)


def text_behind(prompt: str, history: str) -> str:
    """The text that a prompt has behind the history that it begins with."""
    if prompt.startswith(history):
        return prompt[len(history) :]
    unshared = bisect_left(range(len(history) + 1), True, key=lambda n: not prompt.startswith(history[:n]))
    return prompt[unshared - 1 :]


def strings(value: Any) -> Iterator[str]:
    """Every string inside a JSON value, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from strings(key)
            yield from strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)


def _disguised(specials: Iterable[str]) -> set[str]:
    """Brackets that special tokens use; where a token has none, its first character that may be swapped."""
    first_characters: set[str] = set()
    for text in specials:
        brackets = _BRACKETS & set(text)
        first_characters |= brackets or set(next((c for c in text if c not in _NEVER), ""))
    return first_characters


def _code(match: re.Match[str]) -> int:
    """The code point of an escape."""
    long, high, low = match.groups()
    return int(long, 16) if long else 0x10000 + ((int(high, 16) - 0xD800) << 10) + int(low, 16) - 0xDC00


def _unused_run(length: int, texts: Iterable[str]) -> int:
    """The first of `length` private-use code points in a row that stand in none of the texts."""
    taken_codes: set[int] = set()
    for text in texts:
        if not text.isascii():
            taken_codes.update(ord(c) for c in text if ord(c) >= _PLANES[1][0])
        if "\\" in text:
            taken_codes.update(map(_code, _ESCAPED.finditer(text)))
    used = sorted(taken_codes)
    for low, high in _PLANES:
        at = low
        for code_point in [*[u for u in used if low <= u < high], high]:
            if code_point - at >= length:
                return at
            at = code_point + 1
    raise BadRequest("messages hold more kinds of private-use characters than this service can render.")
