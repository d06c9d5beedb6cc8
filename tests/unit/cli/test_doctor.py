"""What `batch doctor` says of a build that does not run here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from batch.cli.doctor import libraries

TRAP = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"


def test_a_build_that_traps_is_named_with_its_remedy() -> None:
    finding = libraries._computes("llama.cpp", ["-c", TRAP], "")
    assert finding.state == "stopped with illegal instruction" and "make clean setup" in finding.remedy


def test_a_build_without_amx_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = {"variant": "without AMX", "failures": ["for this processor: illegal instruction"]}
    (tmp_path / "note.json").write_text(json.dumps({"llama-cpp-python": note}))
    monkeypatch.setattr(libraries, "BUILD_NOTE", tmp_path / "note.json")
    monkeypatch.setattr(libraries, "_run", lambda arguments: None)
    state = libraries._llama().state
    assert state == "computes here (compiled without AMX, because of for this processor: illegal instruction)"


def test_a_module_that_does_not_import_is_named() -> None:
    finding = libraries._imports("speech", ["json", "no_such_module"])
    assert "no_such_module" in finding.state and finding.remedy
