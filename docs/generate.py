"""Write the pages that are made from the code: `python docs/generate.py [FOLDER]`. A test holds docs/ against them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from batch.api import reference_page
from batch.cli import manual
from batch.media import format_page
from batch.settings import reference

PAGES: dict[str, Callable[[], str]] = {
    "settings.md": reference.page,
    "commands.md": manual.reference_page,
    "http.md": reference_page.page,
    "formats.md": format_page.page,
}
"""What makes each page, by its name below docs/."""

MAN_PAGE = Path(__file__).parent.parent / "batch" / "data" / "batch.1"
"""Installed with the package."""


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name, make in PAGES.items():
        (folder / name).write_text(make(), "utf-8")
    if folder == Path(__file__).parent:
        MAN_PAGE.write_text(manual.man_page(), "utf-8")


if __name__ == "__main__":
    main()
