"""How many examples of a property are tried: the first few by `make check`, as it says in FEW_EXAMPLES, else all of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

SHARE = 0.25 if os.environ.get("FEW_EXAMPLES") else 1.0
LEAST_EXAMPLES = 8


def examples(count: int) -> int:
    """So many of `count` examples; they are the same at each run, and the few are the first of the many."""
    return max(LEAST_EXAMPLES, round(count * SHARE))


def example_files(files: Iterable[Path]) -> list[Path]:
    """Files that are all to be gone through, in the order of their names: all of them, or one of four."""
    return sorted(files)[:: round(1 / SHARE)]
