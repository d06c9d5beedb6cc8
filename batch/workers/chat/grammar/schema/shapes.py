"""What values a schema allows, type by type, once everything that holds at one place has been put together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Protocol


class References(Protocol):
    """Finds what a `$ref` means at one place of a document."""

    def lookup(self, ref: str) -> Any:
        """The schema (`contents`) and its own references (`resolver`)."""

    def in_subresource(self, subresource: Any) -> References:
        """The references inside a schema with an `$id` of its own."""


PartKey = tuple[int, bool]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One schema that has to hold at a place, or, `negated`, must not."""

    schema: Any
    references: References
    where: str
    """Its path in the request, for errors."""
    negated: bool = False
    trail: frozenset[int] = frozenset()
    """The schemas whose `$ref` led here without going down into a value."""
    evaluates: bool = True
    """Whether what it says of members and items counts for unevaluatedProperties and unevaluatedItems."""

    @property
    def key(self) -> PartKey:
        """What tells two parts of one document apart."""
        return id(self.schema), self.negated

    def child(self, schema: Any, path: str) -> Part:
        """A schema for a part of the value."""
        return Part(schema, self.references, self.where + path)

    def beside(self, schema: Any, path: str = "") -> Part:
        """A schema for the same value."""
        return replace(self, schema=schema, where=self.where + path, negated=False)

    def denied(self) -> Part:
        """The same schema, which must not hold."""
        return replace(self, negated=True)


Parts = tuple[Part, ...]
"""Schemas that have to hold at once; none: any value."""


@dataclass(frozen=True, slots=True)
class Scalars:
    """A few values without parts of their own: null, true, false, and the strings and numbers of a const or enum."""

    values: tuple[str | int | float | bool | None, ...]


@dataclass(frozen=True, slots=True)
class Numbers:
    """Numbers between bounds."""

    integer: bool = False
    fractional: bool = False
    """Only numbers that are not whole."""
    minimum: Fraction | None = None
    maximum: Fraction | None = None
    is_minimum_excluded: bool = False
    is_maximum_excluded: bool = False
    multiple_of: Fraction | None = None


@dataclass(frozen=True, slots=True)
class StringRule:
    """An expression or a format that a string fits, or must not."""

    keyword: str
    """pattern or format."""
    value: str
    where: str
    negated: bool = False

    def denied(self) -> StringRule:
        """The same, which must not be fit."""
        return replace(self, negated=not self.negated)


@dataclass(frozen=True, slots=True)
class Strings:
    """Strings by length, in characters, and by what they hold."""

    least: int = 0
    most: int | None = None
    rules: tuple[StringRule, ...] = ()
    excluded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Contained:
    """A schema that some of an array's items fit: how many, at least and at most."""

    part: Part
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Arrays:
    """Arrays by their items' schemas and their number."""

    first: tuple[Parts, ...]
    """Schemas of the first items, one by one."""
    items: Parts
    """Schemas of each item behind those."""
    least: int = 0
    most: int | None = None
    contained: tuple[Contained, ...] = ()
    unique: str = ""
    """The path of the keyword that wants no item twice; "": any may come again."""


@dataclass(frozen=True, slots=True)
class NameClass:
    """Members by name: those whose names fit all of some expressions and none of others."""

    fit: tuple[StringRule, ...]
    unfit: tuple[StringRule, ...]
    parts: Parts


@dataclass(frozen=True, slots=True)
class Objects:
    """Objects by their members. Named members come in this order, others behind them."""

    members: tuple[tuple[str, Parts], ...]
    required: frozenset[str]
    others: tuple[NameClass, ...] = ()
    """What other members there may be."""
    names: Parts = ()
    """Schemas of the names of members that are not named here; None: any."""
    least: int = 0
    most: int | None = None


Shape = Scalars | Numbers | Strings | Arrays | Objects


def as_number(value: Any) -> Fraction | None:
    """A JSON number exactly as it was written; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) == float("inf"):
        return None
    return Fraction(value) if isinstance(value, int) else Fraction(repr(value))


def as_count(value: Any) -> int | None:
    """A whole number of 0 or more, however it was written; None where it is none."""
    number = as_number(value)
    return int(number) if number is not None and number >= 0 and number.denominator == 1 else None


def is_possible(numbers: Numbers) -> bool:
    """Whether there is a number between the bounds."""
    low, high, step = numbers.minimum, numbers.maximum, numbers.multiple_of
    if numbers.fractional and (numbers.integer or (step is not None and step.denominator == 1)):
        return False
    if numbers.integer:
        step = Fraction(1) if step is None else Fraction(step.numerator)
    if low is None or high is None:
        return True
    if step is not None:
        first = -(-low // step) * step
        if first == low and numbers.is_minimum_excluded:
            first += step
        return first < high or (first == high and not numbers.is_maximum_excluded)
    return low < high or (low == high and not numbers.is_minimum_excluded and not numbers.is_maximum_excluded)
