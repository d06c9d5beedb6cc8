"""What a table's rows come to, in whatever order they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

_MODULUS = 1 << 128


class RowDigest:
    """How many rows there are, and the sum of their hashes: equal for equal rows, whichever database gives them."""

    def __init__(self) -> None:
        self.count = 0
        self._sum = 0

    def add(self, row: Sequence[Any]) -> None:
        """Take a row in: texts, bytes, numbers and None."""
        self.count += 1
        hashed = hashlib.blake2b(repr(tuple(row)).encode("utf-8", "surrogatepass"), digest_size=16)
        self._sum = (self._sum + int.from_bytes(hashed.digest())) % _MODULUS

    def over(self, rows: Iterable[tuple[Any, ...]], places: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        """The rows as they come, taken in by their cells at `places`."""
        for row in rows:
            self.add([row[place] for place in places])
            yield row

    def __str__(self) -> str:
        return f"{self.count}:{self._sum:032x}"
