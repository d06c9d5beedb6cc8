"""What a schema allows, place by place, as rules of a grammar."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from batch.workers.chat.grammar.lark import one_of, repeated
from batch.workers.chat.grammar.schema.number_terminals import number
from batch.workers.chat.grammar.schema.schema_reader import SchemaReader
from batch.workers.chat.grammar.schema.shapes import (
    Arrays,
    NameClass,
    Numbers,
    Objects,
    PartKey,
    Parts,
    Scalars,
    Shape,
    Strings,
)
from batch.workers.chat.grammar.value_syntax import ValueSyntax

MAX_STATES = 4_000
"""Of one object or array: how far it is, times how many members or items there are."""
MAX_UNIQUE = 60
"""Values of an array without repetitions: one bit each."""


class SchemaWriter:
    """Writes rules for the places of one document."""

    def __init__(self, reader: SchemaReader, syntax: ValueSyntax) -> None:
        self._reader = reader
        self._syntax = syntax
        self._lark = syntax.lark
        self._rules: dict[frozenset[PartKey], str] = {}
        self._waiting: list[tuple[str, Parts]] = []

    def write(self, parts: Parts) -> str:
        """The name of the rule for a value for which all these schemas hold. Raises BadRequest."""
        name = self._rule(parts)
        self._define_waiting()
        return name

    def _define_waiting(self) -> None:
        while self._waiting:
            waiting, place = self._waiting.pop()
            self._lark.define(waiting, one_of(map(self._shape, self._reader.possible_shapes(place))))

    def _rule(self, parts: Parts) -> str:
        key = frozenset(p.key for p in parts)
        if key not in self._rules:
            if not self._reader.is_possible(parts):
                self._reader.refuse(parts[0].where if parts else self._reader.field, "allows no value")
            self._rules[key] = self._lark.reserve()
            self._waiting.append((self._rules[key], parts))
        return self._rules[key]

    def _shape(self, shape: Shape) -> str:
        match shape:
            case Scalars(values):
                return self._syntax.scalars(values)
            case Numbers():
                return number(shape, self._lark)
            case Strings():
                return self._syntax.string(shape)
            case Arrays():
                return self._syntax.array(self._array(shape))
            case Objects():
                return self._syntax.object(self._object(shape))

    # -- objects

    def _object(self, shape: Objects) -> str:
        """All members, in order; others behind those that are named."""
        reader = self._reader
        allowed = [(n, p) for n, p in shape.members if reader.is_possible(p)]
        if 2 * len(allowed) > MAX_STATES:
            self._lark.refuse_size()
        members = [(self._syntax.key(n) + " " + self._rule(p), n in shape.required) for n, p in allowed]
        others = self._others(shape, [name for name, _ in shape.members])
        most = shape.most
        if most is not None and others is None and most >= len(members):
            most = None
        cap = max(shape.least, 1) if most is None else max(most, 1)
        if (cap + 1) * len(members) > MAX_STATES:
            self._lark.refuse_size()
        # tails[count]: what may follow when so many members stand before
        tails = [self._tail(others, shape.least, most, count) for count in range(cap + 1)]
        for text, is_required in reversed(members):
            tails = [self._next_member(text, is_required, tails, count, most) for count in range(cap + 1)]
        return tails[0] or ""

    def _next_member(self, text: str, is_required: bool, tails: list[str | None], count: int, most: int | None) -> str | None:
        after = tails[min(count + 1, len(tails) - 1)] if most is None or count < most else None
        ways = [] if is_required or tails[count] is None else [tails[count] or '""']
        if after is not None:
            ways.insert(0, " ".join(filter(None, (self._syntax.comma if count else "", text, after))))
        if not ways:
            return None
        return self._lark.rule(" | ".join(ways)) if ways != ['""'] else ""

    def _tail(self, others: str | None, least: int, most: int | None, count: int) -> str | None:
        """Other members behind `count` of them; None: there would be too few."""
        missing, remaining = max(least - count, 0), None if most is None else most - count
        if others is None or remaining == 0:
            return None if missing else ""
        return self._more(others, missing, remaining) if count else self._listed(others, missing, remaining)

    def _others(self, shape: Objects, names: list[str]) -> str | None:
        """A rule for one member that is not named; None: there may be none."""
        ways = []
        for other in shape.others:
            if self._reader.is_possible(other.parts):
                for key in self._keys(other, shape.names, tuple(names)):
                    ways.append(f"{key} {self._rule(other.parts)}")
        return self._lark.rule(" | ".join(ways)) if ways else None

    def _keys(self, other: NameClass, names: Parts, named: tuple[str, ...]) -> Iterator[str]:
        """The names of such members, with what separates them from their values."""
        probe = self._reader.probe
        rules = (*other.fit, *(rule.denied() for rule in other.unfit))
        for kind in self._reader.name_shapes(names) if names else (Strings(),):
            if isinstance(kind, Strings):
                strings = Strings(kind.least, kind.most, (*kind.rules, *rules), (*kind.excluded, *named))
                if probe.has_any(strings):
                    yield self._syntax.other_key(strings)
            elif isinstance(kind, Scalars):
                for name in kind.values:
                    if isinstance(name, str) and name not in named and probe.fits_all(rules, name):
                        yield self._syntax.key(name)

    # -- arrays

    def _array(self, shape: Arrays) -> str:
        least, most = shape.least, shape.most
        first = []
        for at, parts in enumerate(shape.first):
            if not self._reader.is_possible(parts):
                most = at if most is None else min(most, at)
                break
            first.append(parts)
        rest: Parts | None = shape.items
        if not self._reader.is_possible(shape.items):
            rest, most = None, len(first) if most is None else min(most, len(first))
        if shape.unique and (most is None or most > 1):
            unique = self._unique(shape, least, most)
            if unique is not None:
                return unique
            self._reader.leave_out(*shape.unique.rsplit(".", 1))
        if shape.contained:
            states = (max(len(first), least, most or 0) + 1) * (max(c.most or c.least for c in shape.contained) + 2)
            if len(shape.contained) == 1 and states <= MAX_STATES and (rest is not None or most is not None):
                return self._containing(shape, first, rest, least, most)
            self._reader.leave_out(shape.contained[0].part.where, "")
        items = [self._rule(parts) for parts in islice(first, most)]
        tail = ""
        if rest is not None and most != len(items):
            more = max(least - len(items), 0), None if most is None else most - len(items)
            rule = self._rule(rest)
            tail = self._more(rule, *more) if items else self._listed(rule, *more)
        for at in range(len(items) - 1, -1, -1):
            body = " ".join(filter(None, (self._syntax.comma if at else "", items[at], tail)))
            tail = self._lark.rule(body if at < least else f"({body})?")
        return tail

    def _containing(self, shape: Arrays, first: list[Parts], rest: Parts | None, least: int, most: int | None) -> str:
        """An array that counts those of its items that fit a schema."""
        contained = shape.contained[0]
        far = max(len(first), least, most or 0, 1)
        cap = contained.least if contained.most is None else contained.most
        names = {(i, n): self._lark.reserve() for i in range(far + 1) for n in range(cap + 1)}
        for (at, count), name in names.items():
            parts = first[at] if at < len(first) else rest
            ways = ['""'] if at >= least and count >= contained.least else []
            comma = self._syntax.comma if at else ""
            if parts is not None and (most is None or at < most):
                hit, miss = (contained.part, *parts), parts if contained.most is None else (contained.part.denied(), *parts)
                following = min(at + 1, far)
                if self._reader.is_possible(hit) and (count < cap or contained.most is None):
                    ways.append(f"{comma} {self._rule(hit)} {names[following, min(count + 1, cap)]}")
                if self._reader.is_possible(miss):
                    ways.append(f"{comma} {self._rule(miss)} {names[following, count]}")
            self._lark.define(name, " | ".join(ways) or self._lark.terminal("/[a&&b]/"))
        return names[0, 0]

    def _unique(self, shape: Arrays, least: int, most: int | None) -> str | None:
        """An array without repetitions of a few scalars; None where the items are of another kind."""
        shapes = self._reader.shapes(shape.items)
        values = [v for s in shapes if isinstance(s, Scalars) for v in s.values]
        if shape.first or shape.contained or len(values) > MAX_UNIQUE or not all(isinstance(s, Scalars) for s in shapes):
            return None
        texts = list(dict.fromkeys(self._syntax.scalars((v,)) for v in values))
        most = len(texts) if most is None else min(most, len(texts))
        if least > most:
            self._reader.refuse(shape.unique, f"leaves fewer than the {least} items that are asked for")
        name = self._lark.reserve("r{}::_")
        rule = name.removesuffix("_")
        ways = [f'"" %if bit_count_ge(_, {least})']
        for bit, text in enumerate(texts):
            condition = f"%if and(bit_clear({bit}), bit_count_lt(_, {most}))"
            ways.append(f"{self._syntax.comma} {text} {rule}set_bit({bit}) {condition}")
        self._lark.define(name, " | ".join(ways))
        starts = [f"{text} {rule}{1 << bit}" for bit, text in enumerate(texts)] if most else []
        return self._lark.rule(" | ".join([*starts, *(['""'] if least == 0 else [])]))

    def _listed(self, item: str, least: int, most: int | None) -> str:
        """Items with commas between them."""
        if most == 0:
            return ""
        more = self._more(item, max(least - 1, 0), None if most is None else most - 1)
        return f"{item} {more}".rstrip() if least else f"({item} {more})?"

    def _more(self, item: str, least: int, most: int | None) -> str:
        """Items with a comma before each."""
        return repeated(f"({self._syntax.comma} {item})", least, most) if most != 0 else ""
