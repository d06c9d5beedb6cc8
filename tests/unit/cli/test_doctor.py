"""What `batch doctor` says of a build that does not run here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from batch.cli.doctor import libraries, memory

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


def test_models_that_do_not_fit_into_memory_are_told_with_what_to_set() -> None:
    finding = memory.judge({"vlm": 9.7e9, "embedding": 0.3e9, "stt": 2.1e9}, 8_000_000_000)
    assert finding.state == (
        "the models take about 12.4 GB without a GPU (vlm 9.7, embedding 0.3, stt 2.1); this machine has 8.0 GB"
    )
    assert finding.remedy == "Set vlm.model to a smaller one, or run them where there is more memory."
    assert not memory.judge({"vlm": 9.7e9, "embedding": 0.3e9, "stt": 2.1e9}, 16_000_000_000).remedy


def test_memory_is_what_the_machine_and_the_control_group_allow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CGROUP_LIMIT", tmp_path / "memory.max")
    whole = memory.machine_bytes()
    assert whole is not None
    memory.CGROUP_LIMIT.write_text("1000000\n")
    assert memory.machine_bytes() == 1_000_000
    memory.CGROUP_LIMIT.write_text("max\n")
    assert memory.machine_bytes() == whole
