"""Regular expressions as terminals: the texts in which an expression is found somewhere.

Anchors and look-ahead say something about the whole text, so each part is written together with what may follow it:
`(?=a)b` followed by K is `a.*` and, at once, `b` K. What is left are sequences, choices, repetitions, "and" and "not".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from batch.errors import BadRequest
from batch.workers.chat.grammar.lark import Lark
from batch.workers.chat.grammar.strings.char_class import ANY_CHAR, CharClass
from batch.workers.chat.grammar.strings.regex_parser import (
    EMPTY,
    Anchor,
    Char,
    Choice,
    LookAhead,
    Node,
    Repeat,
    Sequence,
    parse,
)

MAX_STEPS = 20_000
ANY_TEXT = Repeat(Char(ANY_CHAR), 0, None)
_NOTHING = Choice(())

WriteChar = Callable[[CharClass], str]
"""The regular expression of one character of a set, escaped as the string around it needs; "" where there is none."""


@dataclass(frozen=True, slots=True)
class Both:
    """Texts that fit two expressions."""

    first: Expression
    second: Expression


@dataclass(frozen=True, slots=True)
class Not:
    """Texts that do not fit an expression."""

    node: Expression


@dataclass(frozen=True, slots=True)
class Then:
    """A text of the first and then one of the second."""

    first: Node
    second: Expression


@dataclass(frozen=True, slots=True)
class Either:
    """Texts that fit one of two expressions."""

    first: Expression
    second: Expression


Expression = Node | Both | Not | Then | Either


def pattern_terminal(source: str, lark: Lark, write_char: WriteChar, field: str) -> str:
    """The name of a terminal for every text in which the expression is found. Raises BadRequest naming `field`."""
    tree = parse(source, field)
    searched = _Search(field).texts(tree)
    return _PatternWriter(lark, write_char).name(searched)


class _Search:
    def __init__(self, field: str) -> None:
        self._field = field
        self._steps = 0

    def texts(self, tree: Node) -> Expression:
        if _is_plain(tree):
            return Sequence((ANY_TEXT, tree, ANY_TEXT))
        at_start = self._before(tree, ANY_TEXT, True)
        later = self._before(tree, ANY_TEXT, False)
        return _either(at_start, _then(Repeat(Char(ANY_CHAR), 1, None), later))

    def _before(self, node: Node, rest: Expression, at_start: bool) -> Expression:
        """The texts of the node followed by `rest`; `at_start`: nothing stands in front of them."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            self._refuse("too many combinations of anchors")
        if rest == _NOTHING:
            return rest
        match node:
            case Anchor(start=True):
                return rest if at_start else _NOTHING
            case Anchor():
                return EMPTY if _may_be_empty(rest) else _NOTHING
            case LookAhead(inner, negated):
                ahead = self._before(inner, ANY_TEXT, at_start)
                return _both(rest, _not(ahead) if negated else ahead)
            case _ if _is_plain(node):
                return _then(node, rest)
            case Choice(options):
                expression: Expression = _NOTHING
                for option in options:
                    expression = _either(expression, self._before(option, rest, at_start))
                return expression
            case Sequence(parts):
                return self._sequence(parts, rest, at_start)
            case Repeat(inner, least, most):
                if most is None or most > 4:
                    self._refuse("an anchor or look-ahead that is repeated")
                expression = rest if least == 0 else _NOTHING
                for count in range(max(least, 1), most + 1):
                    expression = _either(expression, self._sequence((inner,) * count, rest, at_start))
                return expression
        raise AssertionError(node)

    def _sequence(self, parts: tuple[Node, ...], rest: Expression, at_start: bool) -> Expression:
        starts: list[bool] = []
        for at, part in enumerate(parts):
            starts.append(at_start)
            if at_start and not _is_zero_width(part):
                if _may_be_empty(part) and any(map(_has_start, parts[at + 1 :])):
                    self._refuse("^ behind something that may be empty")
                at_start = False
        for part, start in zip(reversed(parts), reversed(starts), strict=True):
            rest = self._before(part, rest, start)
        return rest

    def _refuse(self, what: str) -> NoReturn:
        raise BadRequest(f"{self._field} holds {what}, which a grammar cannot follow.")


class _PatternWriter:
    def __init__(self, lark: Lark, write_char: WriteChar) -> None:
        self._lark = lark
        self._char = write_char
        self._names: dict[int, str] = {}
        self._expressions: list[Expression] = []

    def name(self, node: Expression) -> str:
        """The name of the node's terminal."""
        name = self._names.get(id(node))
        if name is None:
            name = self._names[id(node)] = self._lark.terminal(self._body(node))
            self._expressions.append(node)
        return name

    def _body(self, node: Expression) -> str:
        match node:
            case Both(first, second):
                return f"{self.name(first)} & {self.name(second)}"
            case Either(first, second):
                return f"{self.name(first)} | {self.name(second)}"
            case Then(first, second):
                return f"{self.name(first)} {self.name(second)}"
            case Not(inner):
                return f"~{self.name(inner)}"
        regex = self._regex(node)
        return '""' if regex == "" else f"/{regex}/"

    def _regex(self, node: Node) -> str:
        match node:
            case Char(chars):
                return self._char(chars) or "[a&&b]"
            case Sequence(parts):
                return "".join(self._regex(p) for p in parts)
            case Choice(options):
                return f"(?:{'|'.join(self._regex(o) for o in options)})" if options else "[a&&b]"
            case Repeat(inner, least, most):
                body = self._regex(inner)
                return f"(?:{body}){{{least},{'' if most is None else most}}}" if body else ""
        raise AssertionError(node)


def _is_plain(node: Node) -> bool:
    """Whether the node holds no anchor and no look-ahead."""
    match node:
        case Anchor() | LookAhead():
            return False
        case Sequence(parts) | Choice(parts):
            return all(map(_is_plain, parts))
        case Repeat(inner):
            return _is_plain(inner)
    return True


def _has_start(node: Node) -> bool:
    match node:
        case Anchor(start):
            return start
        case Sequence(parts) | Choice(parts):
            return any(map(_has_start, parts))
        case Repeat(inner) | LookAhead(inner):
            return _has_start(inner)
    return False


def _is_zero_width(node: Node) -> bool:
    """Whether the node takes no character whatever happens."""
    match node:
        case Anchor() | LookAhead():
            return True
        case Sequence(parts) | Choice(parts):
            return all(map(_is_zero_width, parts))
        case Repeat(inner, _, most):
            return most == 0 or _is_zero_width(inner)
    return False


def _may_be_empty(node: Expression) -> bool:
    match node:
        case Char():
            return False
        case Sequence(parts):
            return all(map(_may_be_empty, parts))
        case Choice(options):
            return any(map(_may_be_empty, options))
        case Repeat(inner, least):
            return least == 0 or _may_be_empty(inner)
        case Both(first, second) | Then(first, second):
            return _may_be_empty(first) and _may_be_empty(second)
        case Either(first, second):
            return _may_be_empty(first) or _may_be_empty(second)
        case Not(inner):
            return not _may_be_empty(inner)
    return True


def _then(first: Node, second: Expression) -> Expression:
    if second == _NOTHING or first == EMPTY:
        return second
    if second == EMPTY:
        return first
    if isinstance(second, Char | Sequence | Choice | Repeat):
        parts = second.parts if isinstance(second, Sequence) else (second,)
        return Sequence((*(first.parts if isinstance(first, Sequence) else (first,)), *parts))
    return Then(first, second)


def _either(first: Expression, second: Expression) -> Expression:
    if first == _NOTHING or second == _NOTHING:
        return second if first == _NOTHING else first
    return Either(first, second)


def _both(first: Expression, second: Expression) -> Expression:
    if first == _NOTHING or second == _NOTHING:
        return _NOTHING
    if first == ANY_TEXT or second == ANY_TEXT:
        return second if first == ANY_TEXT else first
    return Both(first, second)


def _not(node: Expression) -> Expression:
    return ANY_TEXT if node == _NOTHING else Not(node)
