"""`batch install-service`: a unit that the system accepts, starts the right program, and is taken away again."""

from __future__ import annotations

import json
import os
import plistlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from batch.cli.service.service import launchd, systemd
from batch.errors import BatchError
from batch.settings import Settings
from run_batch import RunBatch
from service_manager import command_words, pretended_machine, unit_values

ODD = [
    "plain",
    "with space",
    "it's",
    'a "quoted" one',
    "100%h",
    "$HOME",
    "back\\slash\\",
    "trailing ",
    "中文 ☃",
    ";semi#colon",
]


@pytest.fixture
def batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_batch: RunBatch) -> RunBatch:
    """Runs a command on a pretended machine, in this process; tests/service starts one."""
    environment = pretended_machine(tmp_path)
    for name in os.environ.keys() - environment.keys():
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir("/")
    return run_batch


def test_installing_writes_the_unit_and_enables_it_and_uninstalling_takes_both_back(batch: RunBatch, tmp_path: Path) -> None:
    done = batch("install-service", "--profile", "starter")
    assert done.status == 0, done.err
    unit = tmp_path / ".config" / "systemd" / "user" / "batch.service"
    found = unit_values(unit.read_text())
    assert command_words(found["ExecStart"]) == [
        sys.executable,
        "-P",
        "-m",
        "batch",
        "serve",
        "--home",
        str(tmp_path / "home"),
        "--profile",
        "starter",
    ]
    assert Path(found["WorkingDirectory"]) == tmp_path / "home"
    assert found["KillSignal"] == "SIGTERM" and found["Restart"] == "on-failure"
    assert int(found["StartLimitBurst"]) <= 10, "what exits with 1 at every start is not tried for ever"
    assert (tmp_path / "told").read_text().splitlines() == [
        "--user daemon-reload",
        "--user enable batch.service",
        "--user restart batch.service",
    ]
    again = batch("install-service", "--json")
    assert json.loads(again.out) == {"file": str(unit), "home": str(tmp_path / "home"), "enabled": True}
    assert again.status == 0 and "--profile" not in unit_values(unit.read_text())["ExecStart"], "installing anew changes it"
    (tmp_path / "told").unlink()
    removed = batch("uninstall-service", "--json")
    assert removed.status == 0 and json.loads(removed.out) == {"file": str(unit), "removed": True}
    assert not unit.exists()
    assert (tmp_path / "told").read_text().splitlines() == [
        "--user disable --now batch.service",
        "--user daemon-reload",
    ]
    missing = batch("uninstall-service")
    assert missing.status == 1 and len(missing.err.splitlines()) == 1


def test_the_system_kills_only_after_the_grace_time(tmp_path: Path) -> None:
    settings = Settings.load(tmp_path, {"queue": {"grace": 120}})
    assert int(unit_values(systemd(settings))["TimeoutStopSec"]) > 120 + 5
    agent = plistlib.loads(launchd("batch", settings).encode())
    assert agent["ExitTimeOut"] > 120 + 5
    assert agent["KeepAlive"] == {"SuccessfulExit": False}, "a breakdown ends with a status, not with a signal"


def test_printing_the_unit_writes_and_enables_nothing(batch: RunBatch, tmp_path: Path) -> None:
    done = batch("install-service", "--print")
    assert done.status == 0 and "ExecStart=" in done.out
    assert json.loads(batch("install-service", "--print", "--json").out)["text"] == done.out
    assert not (tmp_path / ".config").exists() and not (tmp_path / "told").exists()


@pytest.mark.parametrize("name", ODD)
def test_homes_with_odd_names_are_quoted_so_that_the_system_reads_them_back(tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    home.mkdir()
    unit = systemd(Settings.load(home))
    found = unit_values(unit)
    assert command_words(found["ExecStart"])[-1] == str(home)
    directory = found["WorkingDirectory"].replace("%%", "%")
    assert directory.rstrip("/") == str(home) and not directory.endswith((" ", "\\"))
    assert plistlib.loads(launchd("x", Settings.load(home)).encode())["ProgramArguments"][-1] == str(home)
    if analyze := shutil.which("systemd-analyze"):
        (tmp_path / "units").mkdir()
        file = tmp_path / "units" / "batch.service"
        file.write_text(unit)
        done = subprocess.run(
            [analyze, "verify", "--user", str(file)],
            text=True,
            capture_output=True,
            timeout=60,
            env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_a_home_that_no_unit_can_name_is_refused_with_one_sentence(tmp_path: Path) -> None:
    home = tmp_path / "two\nlines"
    home.mkdir()
    with pytest.raises(BatchError, match="another home"):
        systemd(Settings.load(home))


def test_without_a_service_manager_the_file_is_written_and_one_sentence_says_what_to_do(
    batch: RunBatch, tmp_path: Path
) -> None:
    unit = tmp_path / ".config" / "systemd" / "user" / "batch.service"
    fake = tmp_path / "programs" / "systemctl"
    fake.write_text("#!/bin/sh\necho 'Failed to connect to bus: No medium found' >&2\nexit 1\n")
    no_bus = batch("install-service")
    assert unit.exists() and no_bus.status == 1
    assert len(no_bus.err.splitlines()) == 1 and "Failed to connect to bus" in no_bus.err
    assert "systemctl --user enable batch.service" in no_bus.err
    fake.unlink()
    no_program = batch("install-service")
    assert unit.exists() and "there is no systemctl here" in no_program.err
    assert len(no_program.err.splitlines()) == 1


def test_a_unit_of_another_home_is_not_overwritten(batch: RunBatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert batch("install-service").status == 0
    (tmp_path / "second 100%").mkdir()
    monkeypatch.setenv("BATCH_HOME", str(tmp_path / "second 100%"))
    refused = batch("install-service")
    assert refused.status == 1 and str(tmp_path / "home") in refused.err and "--name" in refused.err
    for _ in range(2):
        assert batch("install-service", "--name", "second").status == 0
    assert batch("install-service", "--name", "../evil").status == 1


def test_what_decides_where_things_lie_is_kept_from_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {
        "XDG_CACHE_HOME": "/data/my caches",
        "HF_ENDPOINT": "https://mirror.example/100%",
        "TMPDIR": str(tmp_path),
        "LD_LIBRARY_PATH": "/opt/cuda/lib64:/opt/x",
        "CUDA_VISIBLE_DEVICES": "1",
        "HOME": str(tmp_path),
    }
    for name, value in {**kept, "EDITOR": "vi", "GGML_DEBUG": ""}.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load(tmp_path)
    unit = unit_values(systemd(settings))
    environment = dict(pair.split("=", 1) for pair in command_words(":" + unit["Environment"]))
    agent = plistlib.loads(launchd("batch", settings).encode())["EnvironmentVariables"]
    for variables in (environment, agent):
        assert kept.items() <= variables.items() and not {"EDITOR", "GGML_DEBUG"} & set(variables)
    monkeypatch.setenv("HF_ENDPOINT", "two\nlines")
    with pytest.raises(BatchError, match="another home or value"):
        systemd(settings)


def test_variables_of_the_shell_that_the_service_will_not_know_are_named(
    batch: RunBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCH_VLM__PORT", "9000")
    done = batch("install-service")
    assert done.status == 0 and "BATCH_VLM__PORT" in done.err and "batch.toml" in done.err
