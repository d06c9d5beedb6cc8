"""Statements and parameters as SQLite's driver takes them, for psycopg. Nothing of a statement changes but how it marks
parameters: what both databases read differently is not written at all, outside the stores."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import lru_cache
from typing import Any

_PART = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|::|\?|%|:[a-z_]+""")
"""What may hold a mark, or be one: quoted texts and names, casts, marks, and the sign that psycopg's marks begin with."""


@lru_cache(1024)
def to_psycopg(sql: str) -> bytes:
    """The statement with `%s` for `?` and `%(name)s` for `:name`."""
    return _PART.sub(_translated, sql).encode()


def _translated(match: re.Match[str]) -> str:
    part = match[0]
    if part == "?":
        return "%s"
    if part[0] == ":" and part != "::":
        return f"%({part[1:]})s"
    return part.replace("%", "%%")


def to_parameters(params: Sequence[Any] | Mapping[str, Any]) -> tuple[Any, ...] | dict[str, Any]:
    """The parameters as columns take them: flags are numbers, as in SQLite, and a NUL, which Postgres has no place for in a
    text, is the sign for what cannot be shown."""
    if isinstance(params, Mapping):
        return {name: _to_column(value) for name, value in params.items()}
    return tuple(_to_column(value) for value in params)


def _to_column(value: Any) -> Any:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str) and "\0" in value:
        return value.replace("\0", "\ufffd")
    return value
