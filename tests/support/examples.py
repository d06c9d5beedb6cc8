"""The examples of the documents: fenced blocks, and whether they are to be run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

RUN_LANGUAGES = frozenset({"sh", "bash", "console", "python", "java"})
_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>.+?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL
)


class Example(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str
    reason: str | None
    """Why it is not run; None: it is."""
    line: int


def examples(page: Path) -> Iterator[Example]:
    """The blocks of a page that could be run, in order."""
    text = page.read_text("utf-8")
    for match in _BLOCK.finditer(text):
        if match["language"] in RUN_LANGUAGES:
            line = text.count("\n", 0, match.start("text"))
            yield Example(match["language"], match["text"], match["reason"], line)


def console_steps(text: str) -> Iterator[tuple[str, str]]:
    """(command, what it prints) of a console block."""
    for step in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = step.partition("\n")
        yield command, output
