"""Writing GBNF, llama.cpp's grammar notation, without going over what its parser takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from batch.errors import BadRequest

MAX_UNICODE = 0x10FFFF
_MOST_RULES = 20_000
_MOST_TEXT = 1 << 20
_BLOCK = 100
_MOST_REPEATS = 100_000

Interval = tuple[int, int]


class Rules:
    """A grammar's rules, equal bodies written once."""

    def __init__(self, field: str, prefix: str = "r") -> None:
        """`field` names the request's field in errors."""
        self.field = field
        self._prefix = prefix
        self._bodies: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._size = 0

    def add(self, body: str) -> str:
        """The name of a rule with this body."""
        name = self._names.get(body)
        if name is None:
            name = self._names[body] = self.reserve()
            self.define(name, body)
        return name

    def reserve(self) -> str:
        """A name whose body comes later."""
        name = f"{self._prefix}{len(self._bodies)}"
        self._bodies[name] = ""
        if len(self._bodies) > _MOST_RULES:
            self.too_large()
        return name

    def define(self, name: str, body: str) -> None:
        self._bodies[name] = body
        self._size += len(body)
        if self._size > _MOST_TEXT:
            self.too_large()

    def too_large(self) -> None:
        """Raises BadRequest."""
        raise BadRequest(f"{self.field} is too large to be turned into a grammar.")

    def text(self) -> str:
        return "".join(f"{name} ::= {body}\n" for name, body in self._bodies.items())

    def repeat(self, item: str, least: int, most: int | None) -> str:
        """`item` at least and at most so often. Long counts go by blocks: the parser takes 2,000 at once, no more."""
        if least > _MOST_REPEATS:
            raise BadRequest(f"{self.field} asks for more than {_MOST_REPEATS} repetitions.")
        if most is not None and most > _MOST_REPEATS:
            most = None
        item = self.add(item)
        parts = [self._exactly(item, least)]
        if most is None:
            parts.append(f"{item}*")
        elif most - least < _BLOCK:
            parts.append(f"{item}{{0,{most - least}}}" if most > least else "")
        else:
            blocks, rest = divmod(most - least, _BLOCK)
            block = self.add(self._exactly(item, _BLOCK))
            short = self.add(f"{item}{{0,{_BLOCK - 1}}}")
            some = self._at_most(block, blocks - 1)
            parts.append(f"({some} {short} | {self._exactly(block, blocks)} {self.add(f'{item}{{0,{rest}}}')})")
        return " ".join(p for p in parts if p) or '""'

    def _exactly(self, item: str, count: int) -> str:
        if count < _BLOCK:
            return f"{item}{{{count}}}" if count > 1 else item * count
        blocks, rest = divmod(count, _BLOCK)
        block = self.add(f"{item}{{{_BLOCK}}}")
        return " ".join(p for p in (self._exactly(block, blocks), self._exactly(item, rest)) if p)

    def _at_most(self, item: str, count: int) -> str:
        return f"{item}{{0,{count}}}" if count > 0 else ""

    def listed(self, item: str, separator: str, least: int, most: int | None) -> str:
        """Items with a separator between them."""
        if most == 0:
            return '""'
        more = self.repeat(f"{separator} {item}", max(least - 1, 0), None if most is None else most - 1)
        return f"{item} {more}" if least > 0 else f"({item} {more})?"

    def until(self, end: str) -> str:
        """Any text up to and with the first `end`."""
        names = [self.reserve() for _ in end]
        for at, name in enumerate(names):
            moves = {char: _state_after(end, at, char) for char in set(end)}
            ways = [literal(c) + (f" {names[to]}" if to < len(end) else "") for c, to in sorted(moves.items()) if to > 0]
            ways.append(f"{not_chars([c for c, to in moves.items() if to > 0])} {names[0]}")
            self.define(name, " | ".join(ways))
        return names[0]


def literal(text: str) -> str:
    """A quoted literal."""
    return '"' + "".join(_escape(c, '"\\') for c in text) + '"'


def chars(intervals: Sequence[Interval]) -> str:
    """A class of the characters in the intervals; there must be one."""
    return "[" + "".join(_hex(a) if a == b else f"{_hex(a)}-{_hex(b)}" for a, b in intervals) + "]"


def not_chars(excluded: Iterable[str]) -> str:
    """A class of every other character."""
    return "[^" + "".join(_hex(ord(c)) for c in sorted(excluded)) + "]"


def complement(intervals: Iterable[Interval]) -> list[Interval]:
    """Every code point that lies in none of the intervals."""
    made: list[Interval] = []
    at = 0
    for low, high in sorted(intervals):
        if low > at:
            made.append((at, low - 1))
        at = max(at, high + 1)
    if at <= MAX_UNICODE:
        made.append((at, MAX_UNICODE))
    return made


def without(intervals: Iterable[Interval], removed: Iterable[Interval]) -> list[Interval]:
    """The code points of the first that are not in the second."""
    return complement([*complement(intervals), *removed])


def _state_after(end: str, matched: int, char: str) -> int:
    """How much of `end` is matched after one more character."""
    seen = end[:matched] + char
    return next(n for n in range(len(seen), -1, -1) if seen.endswith(end[:n]))


def _escape(char: str, special: str) -> str:
    if char in special:
        return "\\" + char
    return char if char.isprintable() and ord(char) < 0xFFFF else _hex(ord(char))


def _hex(code: int) -> str:
    char = chr(code)
    if code < 128 and char.isalnum():
        return char
    return f"\\x{code:02X}" if code < 256 else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"
