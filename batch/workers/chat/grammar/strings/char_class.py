"""Sets of characters as regular expressions name them: intervals, Unicode properties, or everything but those."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from batch.workers.chat.grammar.lark import regex_escape

MAX_UNICODE = 0x10FFFF
Interval = tuple[int, int]

DIGITS: Final = ((48, 57),)
WORD: Final = (*DIGITS, (65, 90), (95, 95), (97, 122))
SPACES: Final = (
    (9, 13), (32, 32), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029),
    (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
)  # fmt: skip
_LINE_ENDS = ((10, 10), (13, 13), (0x2028, 0x2029))
_WITH_QUOTES = {"P", "Po", "Punctuation", "Other_Punctuation", "ASCII", "Any", "Assigned"}
"""Unicode properties that the quote and the backslash have."""
_WITH_CONTROLS = {"C", "Cc", "Other", "Control", "ASCII", "Any", "Assigned"}
"""Unicode properties that the control characters of ASCII have."""


@dataclass(frozen=True, slots=True)
class CharClass:
    """A set of characters: those in `intervals` or with one of `properties`; with `negated`, all others."""

    intervals: tuple[Interval, ...] = ()
    properties: tuple[tuple[str, bool], ...] = ()
    """(name as `\\p{name}` takes it, whether the characters without it are meant)."""
    negated: bool = False

    def has(self, code: int) -> bool:
        """Whether an ASCII character lies in the set; of characters with Unicode properties only `"`, `\\` and
        control characters can be asked."""
        inside = any(a <= code <= b for a, b in self.intervals) or any(
            _has_property(name, code) != inverted for name, inverted in self.properties
        )
        return inside != self.negated

    def without(self, removed: Iterable[Interval]) -> str:
        """The regular expression of one character of the set that lies in none of the intervals; "" if none does."""
        removed = list(removed)
        if self.properties:
            body = _items(self.intervals) + "".join(f"\\{'P' if no else 'p'}{{{name}}}" for name, no in self.properties)
            own = f"[{'^' if self.negated else ''}{body}]"
            return f"[{own}&&[^{_items(removed)}]]" if removed else own
        intervals = complement([*(self.intervals if self.negated else complement(self.intervals)), *removed])
        return f"[{_items(intervals)}]" if intervals else ""

    def joined(self, other: CharClass) -> CharClass:
        """The characters of both sets; neither may be negated, but for a `\\D`-like set without properties."""
        a, b = self.plain(), other.plain()
        return CharClass((*a.intervals, *b.intervals), (*a.properties, *b.properties))

    def plain(self) -> CharClass:
        """The same set, not negated where that can be said by intervals."""
        return CharClass(tuple(complement(self.intervals))) if self.negated and not self.properties else self


ANY_CHAR = CharClass(((0, MAX_UNICODE),))
NO_LINE_END = CharClass(_LINE_ENDS, negated=True)


def complement(intervals: Iterable[Interval]) -> list[Interval]:
    """Every code point that lies in none of the intervals."""
    merged: list[Interval] = []
    at = 0
    for low, high in sorted(intervals):
        if low > at:
            merged.append((at, low - 1))
        at = max(at, high + 1)
    if at <= MAX_UNICODE:
        merged.append((at, MAX_UNICODE))
    return merged


def _items(intervals: Iterable[Interval]) -> str:
    return "".join(_char(a) if a == b else f"{_char(a)}-{_char(b)}" for a, b in _scalars(intervals))


def _scalars(intervals: Iterable[Interval]) -> list[Interval]:
    """The intervals without surrogates, which are no characters."""
    allowed: list[Interval] = []
    for low, high in intervals:
        allowed += [(a, b) for a, b in ((low, min(high, 0xD7FF)), (max(low, 0xE000), high)) if a <= b]
    return allowed


def _char(code: int) -> str:
    return regex_escape(chr(code))


def _has_property(name: str, code: int) -> bool:
    name = name.rpartition("=")[2]
    return name in (_WITH_CONTROLS if code < 32 or code == 127 else _WITH_QUOTES)
