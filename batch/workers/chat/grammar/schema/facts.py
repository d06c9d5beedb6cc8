"""What one branch of a schema has said so far about the values at one place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import lcm
from typing import Any, Protocol

from batch.errors import BadRequest
from batch.workers.chat.grammar.schema.shapes import (
    Arrays,
    Contained,
    NameClass,
    Numbers,
    Objects,
    Part,
    PartKey,
    Parts,
    Scalars,
    Shape,
    StringRule,
    Strings,
    as_number,
    is_possible,
)

KINDS = ("object", "array", "string", "number", "boolean", "null")
MAX_NAME_CLASSES = 64
"""Of the names that fit some of an object's patterns and not the others."""


class StringAnswers(Protocol):
    """Answers about strings."""

    def fits(self, rule: StringRule, text: str) -> bool:
        """Whether a string fits a rule; `negated` is not looked at."""

    def has_any(self, strings: Strings) -> bool:
        """Whether there is such a string."""


@dataclass
class NumberFacts:
    """Of numbers."""

    shape: Numbers = field(default_factory=Numbers)
    allowed: tuple[Any, ...] | None = None

    def as_integers(self) -> None:
        """Only whole numbers."""
        self.shape = replace(self.shape, integer=True)

    def as_fractions(self) -> None:
        """Only numbers that are not whole."""
        self.shape = replace(self.shape, fractional=True)

    def allow(self, values: list[Any]) -> None:
        """Only these numbers, of those that were allowed."""
        old = self.allowed
        self.allowed = tuple(values if old is None else (v for v in old if v in values))

    def bound(self, value: Fraction, *, lower: bool, excluded: bool) -> None:
        """One more bound; the tighter one counts."""
        old, was = (
            (self.shape.minimum, self.shape.is_minimum_excluded)
            if lower
            else (self.shape.maximum, self.shape.is_maximum_excluded)
        )
        if old is not None and (old > value if lower else old < value):
            return
        excluded = excluded or (old == value and was)
        self.shape = (
            replace(self.shape, minimum=value, is_minimum_excluded=excluded)
            if lower
            else replace(self.shape, maximum=value, is_maximum_excluded=excluded)
        )

    def step(self, value: Fraction) -> None:
        """One more divisor."""
        old = self.shape.multiple_of
        if old is not None:
            value = Fraction(lcm(old.numerator * value.denominator, value.numerator * old.denominator), 1) / (
                old.denominator * value.denominator
            )
        self.shape = replace(self.shape, multiple_of=value)

    def fits(self, value: Any) -> bool:
        """Whether a number fits everything said so far."""
        exact, shape = as_number(value), self.shape
        assert exact is not None
        is_whole = exact.denominator == 1
        if (shape.integer and not is_whole) or (shape.fractional and is_whole):
            return False
        if shape.multiple_of and (exact / shape.multiple_of).denominator != 1:
            return False
        low, high = shape.minimum, shape.maximum
        if low is not None and (exact < low or (exact == low and shape.is_minimum_excluded)):
            return False
        return high is None or exact < high or (exact == high and not shape.is_maximum_excluded)


@dataclass
class StringFacts:
    """Of strings."""

    least: int = 0
    most: int | None = None
    rules: list[StringRule] = field(default_factory=list)
    allowed: tuple[str, ...] | None = None
    excluded: list[str] = field(default_factory=list)

    def allow(self, values: list[str]) -> None:
        """Only these strings, of those that were allowed."""
        old = self.allowed
        self.allowed = tuple(values if old is None else (v for v in old if v in values))

    def fits(self, value: str, probe: StringAnswers) -> bool:
        """Whether a string fits everything said so far."""
        if len(value) < self.least or (self.most is not None and len(value) > self.most) or value in self.excluded:
            return False
        return all(probe.fits(rule, value) != rule.negated for rule in self.rules)


@dataclass
class ArrayFacts:
    """Of arrays."""

    first: dict[int, list[Part]] = field(default_factory=dict)
    items: list[tuple[int, Part, bool]] = field(default_factory=list)
    """(from which item on, schema, whether that leaves none unevaluated)."""
    unevaluated: list[Part] = field(default_factory=list)
    is_silent: bool = False
    """Whether a negation speaks of the first items, which then count as unevaluated."""
    least: int = 0
    most: int | None = None
    contained: list[tuple[Part, int, int | None]] = field(default_factory=list)
    unique: str = ""
    """The path of the keyword that wants no item twice."""


@dataclass
class ObjectFacts:
    """Of objects."""

    members: dict[str, list[Part]] = field(default_factory=dict)
    described: set[str] = field(default_factory=set)
    """The members that the schema itself names: not those that only a negation speaks of."""
    required: dict[str, None] = field(default_factory=dict)
    patterns: list[tuple[str, str, Part]] = field(default_factory=list)
    """(expression, its path, schema)."""
    additional: list[tuple[frozenset[str], tuple[str, ...], Part]] = field(default_factory=list)
    """(names and expressions that it does not speak of, schema)."""
    unevaluated: list[Part] = field(default_factory=list)
    names: list[Part] = field(default_factory=list)
    least: int = 0
    most: int | None = None


@dataclass
class Facts:
    """One branch: all facts hold at once."""

    types: frozenset[str] = frozenset(KINDS)
    hinted: frozenset[str] = frozenset()
    """Types that the schema speaks of without asking for them."""
    is_typed: bool = False
    booleans: frozenset[bool] = frozenset((True, False))
    number: NumberFacts = field(default_factory=NumberFacts)
    string: StringFacts = field(default_factory=StringFacts)
    array: ArrayFacts = field(default_factory=ArrayFacts)
    object: ObjectFacts = field(default_factory=ObjectFacts)
    alone: PartKey | None = None
    """The schema that everything here comes from, if there is one."""
    blocked: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By type: the path and the keyword that no grammar can follow."""

    def copy(self) -> Facts:
        """The same facts, to be added to on their own."""
        a, o = self.array, self.object
        return replace(
            self,
            number=replace(self.number),
            string=replace(self.string, rules=[*self.string.rules], excluded=[*self.string.excluded]),
            array=replace(
                a,
                first={k: [*v] for k, v in a.first.items()},
                items=[*a.items],
                unevaluated=[*a.unevaluated],
                contained=[*a.contained],
            ),
            object=replace(
                o,
                members={k: [*v] for k, v in o.members.items()},
                described={*o.described},
                required={**o.required},
                patterns=[*o.patterns],
                additional=[*o.additional],
                unevaluated=[*o.unevaluated],
                names=[*o.names],
            ),
            blocked={**self.blocked},
        )

    def hint(self, kind: str) -> None:
        """The schema speaks of this type."""
        self.hinted |= {kind}

    def restrict(self, types: frozenset[str]) -> None:
        """Only these types are left."""
        self.types &= types
        self.is_typed = True

    def sized(self, kind: str) -> StringFacts | ArrayFacts | ObjectFacts:
        """The facts of a type whose values have a size."""
        return self.string if kind == "string" else self.array if kind == "array" else self.object

    @property
    def kinds(self) -> list[str]:
        """The types that are left; where nothing asks for a type, those that the schema speaks of."""
        types = self.types if self.is_typed else self.types & self.hinted or self.types
        return [kind for kind in KINDS if kind in types]

    def shapes(self, probe: StringAnswers) -> Iterator[Shape]:
        """What is allowed, by type; `probe` decides about strings of a const or enum, and names of members."""
        for kind in self.kinds:
            shape = self._shape(kind, probe)
            if shape is not None:
                yield shape

    def _shape(self, kind: str, probe: StringAnswers) -> Shape | None:
        match kind:
            case "null":
                return Scalars((None,))
            case "boolean":
                return Scalars(tuple(sorted(self.booleans, reverse=True))) if self.booleans else None
            case "number":
                return self._numbers()
            case "string":
                return self._strings(probe)
            case "array":
                return self._arrays()
        return self._objects(probe)

    def _numbers(self) -> Shape | None:
        if self.number.allowed is None:
            return self.number.shape if is_possible(self.number.shape) else None
        values = tuple(v for v in self.number.allowed if self.number.fits(v))
        return Scalars(values) if values else None

    def _strings(self, probe: StringAnswers) -> Shape | None:
        facts = self.string
        if facts.allowed is not None:
            values = tuple(v for v in facts.allowed if facts.fits(v, probe))
            return Scalars(values) if values else None
        if facts.most is not None and facts.least > facts.most:
            return None
        return Strings(facts.least, facts.most, tuple(dict.fromkeys(facts.rules)), tuple(dict.fromkeys(facts.excluded)))

    def _arrays(self) -> Shape | None:
        facts = self.array
        size = max([*(i + 1 for i in facts.first), *(start for start, _, _ in facts.items)], default=0)
        unevaluated = [] if any(evaluates for _, _, evaluates in facts.items) else facts.unevaluated
        rest = (*(p for _, p, _ in facts.items), *unevaluated)
        silent = unevaluated if facts.is_silent else []
        first = tuple(
            _unique([*facts.first.get(i, ()), *(p for start, p, _ in facts.items if start <= i), *silent]) for i in range(size)
        )
        most = facts.most
        if most is not None and facts.least > most:
            return None
        contained = tuple(Contained(part, least, most) for part, least, most in facts.contained)
        return Arrays(first, _unique(rest), facts.least, most, contained, facts.unique)

    def _objects(self, probe: StringAnswers) -> Shape | None:
        facts = self.object
        names = list(dict.fromkeys([*facts.members, *facts.required]))
        if facts.most is not None and max(facts.least, len(facts.required)) > facts.most:
            return None
        rules = [StringRule("pattern", source, where) for source, where in {s: w for s, w, _ in facts.patterns}.items()]
        members = []
        for name in names:
            fit = [rule for rule in rules if probe.fits(rule, name)]
            parts = [*facts.members.get(name, ()), *self._other_parts(fit, name)]
            members.append((name, _unique(parts)))
        # What a schema says nothing about could be anything; a model had better not invent it.
        is_closed = bool(facts.described or rules) and not facts.additional and facts.least <= len(names)
        others = []
        for fit in _combinations(rules, probe):
            if fit or not is_closed or facts.unevaluated:
                unfit = tuple(rule for rule in rules if rule not in fit)
                others.append(NameClass(tuple(fit), unfit, _unique(self._other_parts(fit))))
        return Objects(tuple(members), frozenset(facts.required), tuple(others), _unique(facts.names), facts.least, facts.most)

    def _other_parts(self, fit: list[StringRule], name: str = "") -> Iterator[Part]:
        """Schemas of a member whose name fits these expressions, beside those that name it."""
        facts = self.object
        sources = {rule.value for rule in fit}
        yield from (p for source, _, p in facts.patterns if source in sources)
        for members, patterns, part in facts.additional:
            if name not in members and sources.isdisjoint(patterns):
                yield part
        if not fit and not facts.additional and name not in facts.described:
            yield from facts.unevaluated


def _combinations(rules: list[StringRule], probe: StringAnswers) -> list[list[StringRule]]:
    """The sets of expressions that some name fits while it fits none of the others."""
    rule_sets: list[list[StringRule]] = [[]]
    for at, rule in enumerate(rules):
        longer_sets = []
        for fit in rule_sets:
            unfit = [other.denied() for other in rules[:at] if other not in fit]
            if probe.has_any(Strings(rules=(*fit, *unfit, rule))):
                longer_sets.append([*fit, rule])
            if probe.has_any(Strings(rules=(*fit, *unfit, rule.denied()))):
                longer_sets.append(fit)
        rule_sets = longer_sets
        if len(rule_sets) > MAX_NAME_CLASSES:
            raise BadRequest(f"{rule.where} cannot be enforced: its expressions overlap in too many ways.")
    return rule_sets


def _unique(parts: Iterable[Part]) -> Parts:
    return tuple({p.key: p for p in parts}.values())
