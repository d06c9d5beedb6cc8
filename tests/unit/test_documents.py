"""The documents name tests for what they promise; here those tests are looked for."""

from __future__ import annotations

import re

import pytest

from paths import ROOT, TESTS


def defined_tests() -> set[str]:
    files = [file.read_text("utf-8") for file in TESTS.rglob("test_*.py")]
    return {name for text in files for name in re.findall(r"^ *(?:async )?def (test_\w+)", text, re.MULTILINE)}


def table_rows(page: str) -> list[str]:
    lines = (ROOT / "docs" / page).read_text("utf-8").splitlines()
    return [line for line in lines if line.startswith("|") and not line.startswith(("|---", "| concern", "| ---"))]


@pytest.mark.parametrize("page", ["reliability.md", "edges.md"])
def test_every_test_that_a_page_names_is_there(page: str) -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / page).read_text("utf-8")))
    assert len(named) > 20
    assert named - defined_tests() == set()


def test_every_row_of_the_reliability_page_names_its_test() -> None:
    assert [row for row in table_rows("reliability.md") if not re.search(r"`test_\w+`", row)] == []
