"""The man page and the page of commands are made from the help."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from batch.cli import manual
from paths import ROOT


def test_the_man_page_is_as_the_help_makes_it_and_man_understands_it() -> None:
    """After a change of commands: `make docs-pages`."""
    page = ROOT / "batch" / "data" / "batch.1"
    assert page.read_text("utf-8") == manual.man_page(), "batch/data/batch.1 is old: run `make docs-pages`"
    if shutil.which("groff") is None:
        pytest.skip("this machine has no groff")
    ended = subprocess.run(["groff", "-man", "-Tutf8", "-ww", page], capture_output=True, text=True)
    assert ended.returncode == 0 and not ended.stderr and len(ended.stdout.splitlines()) > 100


def test_every_command_explains_itself_and_every_option() -> None:
    commands = manual.commands()
    assert {"batch submit", "batch models pull", "batch redo"} <= {command.name for command in commands}
    for command in commands:
        assert command.text.endswith("."), command.name
        assert [name for name, meaning in command.options if not meaning] == [], command.name


def test_every_command_that_prints_something_speaks_json() -> None:
    names = [command.name for command in manual.commands()]
    single = [command for command in manual.commands() if not any(name.startswith(f"{command.name} ") for name in names)]
    without = {command.name for command in single if "--json" not in dict(command.options)}
    # `batch mcp` speaks the JSON of its protocol, and `batch worker` prints nothing
    assert without == {"batch mcp", "batch worker"}
