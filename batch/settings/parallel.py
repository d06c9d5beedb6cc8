"""How many jobs are computed together: a number, or auto."""

from __future__ import annotations

from typing import Literal

MAX_PARALLEL = 64


def check_parallel(value: object) -> Literal["auto"] | int:
    """`auto`, or a whole number from 1 to 64, also as text. Raises ValueError."""
    if value == "auto":
        return "auto"
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
    if isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= MAX_PARALLEL:
        return number
    raise ValueError("it is neither auto nor such a number")
