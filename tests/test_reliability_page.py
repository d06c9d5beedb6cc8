"""docs/reliability.md names its tests; here they are looked for."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reliability.md"


def test_every_test_that_the_page_names_is_there_and_every_row_names_one() -> None:
    defined = set()
    for file in TESTS.glob("test_*.py"):
        defined |= set(re.findall(r"^(?:async )?def (test_\w+)", file.read_text("utf-8"), re.M))
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("|")]
    rows = [row for row in rows if not row.startswith(("|---", "| concern"))]
    named = {row: re.findall(r"`(test_\w+)`", row) for row in rows}
    assert not [row for row, tests in named.items() if not tests]
    assert {test for tests in named.values() for test in tests} <= defined
