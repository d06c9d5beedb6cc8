"""Running `batch …` in this process, in a home without a service."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from batch.cli import app
from batch.queue.open_store import open_store
from run_batch import Outcome, RunBatch


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in which a service has run, and which is the current folder."""
    home = tmp_path / "home"
    (home / "inbox").mkdir(parents=True)
    open_store(home / ".batch" / "batch.db").close()
    monkeypatch.chdir(home)
    monkeypatch.delenv("BATCH_HOME", raising=False)
    return home


make_command = typer.main.get_command


@cache
def _parser(commands: int) -> Any:
    """What reads the command line, with so many commands loaded: a process of its own makes it once too."""
    return make_command(app.app)


@pytest.fixture
def run_batch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunBatch:
    """Runs a command as the console script does."""
    monkeypatch.setattr(
        typer.main, "get_command", lambda _: _parser(len(app.app.registered_commands + app.app.registered_groups))
    )

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["batch", *arguments])
        with pytest.raises(SystemExit) as ended:
            app.main()
        printed = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Outcome(ended.value.code, printed.out, printed.err)

    return run
