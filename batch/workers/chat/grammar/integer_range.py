"""Whole numbers between two bounds, as a grammar."""

from __future__ import annotations

_LONGEST = 16
"""Digits of a number without a bound, as in llama.cpp."""


def integers(least: int | None, most: int | None) -> str:
    """GBNF for the integers from `least` to `most`, both included; None: no bound. "" when there are none."""
    far = 10**_LONGEST - 1
    low = -far if least is None else max(least, -far)
    high = far if most is None else min(most, far)
    ways: list[str] = []
    if low < 0 and low <= high:
        ways += [f'"-" ({way})' for way in _naturals(max(1, -high), -low)]
    if high >= 0 and low <= high:
        ways += _naturals(max(0, low), high)
    return " | ".join(ways)


def _naturals(low: int, high: int) -> list[str]:
    ways: list[str] = []
    full_from: int | None = None
    for length in range(len(str(low)), len(str(high)) + 1):
        a, b = (0 if length == 1 else 10 ** (length - 1)), 10**length - 1
        if low <= max(a, 1) and b <= high and length > 1:
            full_from = full_from or length
            continue
        if full_from:
            ways.append(_full(full_from, length - 1))
            full_from = None
        ways.append(_same_length(str(max(a, low)), str(min(b, high))))
    if full_from:
        ways.append(_full(full_from, len(str(high))))
    return ways


def _full(least: int, most: int) -> str:
    return f"[1-9] [0-9]{{{least - 1},{most - 1}}}"


def _same_length(a: str, b: str) -> str:
    if not a:
        return '""'
    rest = len(a) - 1
    if set(a[1:]) <= {"0"} and set(b[1:]) <= {"9"}:
        return " ".join(p for p in (_digit(a[0], b[0]), f"[0-9]{{{rest}}}" if rest else "") if p)
    if a[0] == b[0]:
        return f"{_digit(a[0], a[0])} ({_same_length(a[1:], b[1:])})"
    ways = [f"{_digit(a[0], a[0])} ({_same_length(a[1:], '9' * rest)})"]
    if int(b[0]) - int(a[0]) > 1:
        ways.append(f"{_digit(str(int(a[0]) + 1), str(int(b[0]) - 1))} [0-9]{{{rest}}}")
    ways.append(f"{_digit(b[0], b[0])} ({_same_length('0' * rest, b[1:])})")
    return " | ".join(ways)


def _digit(a: str, b: str) -> str:
    return f"[{a}]" if a == b else f"[{a}-{b}]"
