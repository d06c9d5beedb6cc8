"""The documents name tests for what they promise; here those tests are looked for."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from examples import examples
from paths import ROOT, TESTS


def defined_tests() -> set[str]:
    files = [file.read_text("utf-8") for file in TESTS.rglob("test_*.py")]
    return {name for text in files for name in re.findall(r"^ *(?:async )?def (test_\w+)", text, re.MULTILINE)}


def table_rows(page: str) -> list[str]:
    lines = (ROOT / "docs" / page).read_text("utf-8").splitlines()
    return [line for line in lines if line.startswith("|") and not line.startswith(("|---", "| concern", "| ---"))]


MIN_NAMED_TESTS = {"reliability.md": 20, "edges.md": 20, "batches.md": 5, "responses.md": 5, "search.md": 10, "mcp.md": 5}


@pytest.mark.parametrize("page", MIN_NAMED_TESTS)
def test_every_test_that_a_page_names_is_there(page: str) -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / page).read_text("utf-8")))
    assert len(named) > MIN_NAMED_TESTS[page]
    assert named - defined_tests() == set()


def test_every_row_of_the_reliability_page_names_its_test() -> None:
    assert [row for row in table_rows("reliability.md") if not re.search(r"`test_\w+`", row)] == []


PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").glob("*.md")])
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The fragments that a page's headings make, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text("utf-8")))
    broken = []
    for link in links:
        target, _, fragment = link.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (fragment and file.suffix == ".md" and fragment not in anchors(file)):
            broken.append(link)
    assert broken == []


def test_the_pages_that_the_code_makes_are_as_it_makes_them() -> None:
    """After a change of settings or commands: `make docs-pages`."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for name, make in generate.PAGES.items():
        assert (ROOT / "docs" / name).read_text("utf-8") == make(), f"docs/{name} is old: run `make docs-pages`"


def test_every_page_and_every_decision_is_listed() -> None:
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert {page for page in pages if f"({page})" not in index} == set()
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert len(decisions) >= 8
    assert [page.name for page in decisions if f"decisions/{page.name}" not in index] == []


def test_an_example_that_is_not_run_says_why() -> None:
    """And most are: what a page shows is what happens."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    blocks = [example for page in pages for example in examples(page)]
    assert len([block for block in blocks if block.reason is None]) > 25
    assert all(len(block.reason) > 10 for block in blocks if block.reason is not None)


def test_every_page_with_examples_is_run() -> None:
    text = (TESTS / "service" / "test_docs_examples.py").read_text("utf-8")
    pages = [page.stem for page in (ROOT / "docs").glob("*.md") if any(example.reason is None for example in examples(page))]
    assert pages and [page for page in pages if f'"{page}"' not in text] == []


def test_every_page_is_in_the_sites_index() -> None:
    """Else `make docs` fails, which is strict."""
    index = (ROOT / "mkdocs.yml").read_text("utf-8")
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if f": {page}\n" not in index] == []
