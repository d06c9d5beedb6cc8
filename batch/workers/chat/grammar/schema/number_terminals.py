"""Numbers between bounds, as the engine's own schema compiler writes them."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from math import inf, nextafter
from typing import Any

from batch.workers.chat.grammar.lark import Lark
from batch.workers.chat.grammar.schema.shapes import Numbers

_DIGITS = 16
"""Digits of a number without bounds, before and behind the point, as in llama.cpp: else a model may never end one."""
_WHOLE = rf"-?(?:0|[1-9][0-9]{{0,{_DIGITS - 1}}})"
_FRACTION = rf"{_WHOLE}\.[0-9]{{0,{_DIGITS - 1}}}[1-9]"
_EXPONENT = "[eE][+-]?(?:[0-9]|[1-9][0-9]|[12][0-9]{2})"
_ANY = rf"{_WHOLE}(?:\.[0-9]{{1,{_DIGITS}}})?(?:{_EXPONENT})?"


def is_enforceable(numbers: Numbers) -> bool:
    """Whether a grammar can follow it: numbers that are not whole only without bounds."""
    return not numbers.fractional or numbers == Numbers(fractional=True)


def number(numbers: Numbers, lark: Lark) -> str:
    """The name of a rule for such a number."""
    if numbers.fractional:
        return lark.terminal(f"/{_FRACTION}/")
    if numbers.minimum is None and numbers.maximum is None and numbers.multiple_of is None:
        return lark.terminal(f"/{_WHOLE if numbers.integer else _ANY}/")
    schema: dict[str, Any] = {"type": "integer" if numbers.integer else "number"}
    if numbers.minimum is not None:
        key = "exclusiveMinimum" if numbers.is_minimum_excluded else "minimum"
        schema[key] = _rounded(numbers.minimum, inf)
    if numbers.maximum is not None:
        key = "exclusiveMaximum" if numbers.is_maximum_excluded else "maximum"
        schema[key] = _rounded(numbers.maximum, -inf)
    step = numbers.multiple_of
    if step is not None and numbers.integer:
        step = Fraction(step.numerator)
    if step is not None and not (numbers.integer and step == 1):
        schema["multipleOf"] = _rounded(step, 0)
    schema["x-guidance"] = {"whitespace_flexible": False}
    return lark.rule(f"%json {json.dumps(schema)}")


def _rounded(value: Fraction, towards: float) -> int | float:
    """The bound as the engine can read it, which knows no more than 64 bits: never a wider one."""
    if value.denominator == 1 and abs(value) <= 2**53:
        return int(value)
    near = float(Decimal(value.numerator) / Decimal(value.denominator))
    exact = Fraction(near)
    if towards and ((exact < value) if towards > 0 else (exact > value)) and Fraction(repr(near)) != value:
        near = nextafter(near, towards)
    return near
