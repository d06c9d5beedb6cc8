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
from service_manager import command_words, pretended_machine, run_batch, unit_values

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
def machine(tmp_path: Path) -> dict[str, str]:
    return pretended_machine(tmp_path)


def test_installing_writes_the_unit_and_enables_it_and_uninstalling_takes_both_back(
    machine: dict[str, str], tmp_path: Path
) -> None:
    done = run_batch(machine, "install-service", "--profile", "starter")
    assert done.returncode == 0, done.stderr
    unit = tmp_path / ".config" / "systemd" / "user" / "batch.service"
    found = unit_values(unit.read_text())
    assert command_words(found["ExecStart"]) == [
        sys.executable,
        "-P",
        "-m",
        "batch",
        "serve",
        "--home",
        machine["BATCH_HOME"],
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
    again = run_batch(machine, "install-service", "--json")
    assert json.loads(again.stdout) == {"file": str(unit), "home": machine["BATCH_HOME"], "enabled": True}
    assert again.returncode == 0 and "--profile" not in unit_values(unit.read_text())["ExecStart"], "installing anew changes it"
    (tmp_path / "told").unlink()
    removed = run_batch(machine, "uninstall-service", "--json")
    assert removed.returncode == 0 and json.loads(removed.stdout) == {"file": str(unit), "removed": True}
    assert not unit.exists()
    assert (tmp_path / "told").read_text().splitlines() == [
        "--user disable --now batch.service",
        "--user daemon-reload",
    ]
    missing = run_batch(machine, "uninstall-service")
    assert missing.returncode == 1 and len(missing.stderr.splitlines()) == 1


def test_the_system_kills_only_after_the_grace_time(tmp_path: Path) -> None:
    settings = Settings.load(tmp_path, {"queue": {"grace": 120}})
    assert int(unit_values(systemd(settings))["TimeoutStopSec"]) > 120 + 5
    agent = plistlib.loads(launchd("batch", settings).encode())
    assert agent["ExitTimeOut"] > 120 + 5
    assert agent["KeepAlive"] == {"SuccessfulExit": False}, "a breakdown ends with a status, not with a signal"


def test_printing_the_unit_writes_and_enables_nothing(machine: dict[str, str], tmp_path: Path) -> None:
    done = run_batch(machine, "install-service", "--print")
    assert done.returncode == 0 and "ExecStart=" in done.stdout
    assert json.loads(run_batch(machine, "install-service", "--print", "--json").stdout)["text"] == done.stdout
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
    machine: dict[str, str], tmp_path: Path
) -> None:
    unit = tmp_path / ".config" / "systemd" / "user" / "batch.service"
    fake = tmp_path / "programs" / "systemctl"
    fake.write_text("#!/bin/sh\necho 'Failed to connect to bus: No medium found' >&2\nexit 1\n")
    no_bus = run_batch(machine, "install-service")
    assert unit.exists() and no_bus.returncode == 1
    assert len(no_bus.stderr.splitlines()) == 1 and "Failed to connect to bus" in no_bus.stderr
    assert "systemctl --user enable batch.service" in no_bus.stderr
    fake.unlink()
    no_program = run_batch(machine, "install-service")
    assert unit.exists() and "there is no systemctl here" in no_program.stderr
    assert len(no_program.stderr.splitlines()) == 1


def test_a_unit_of_another_home_is_not_overwritten(machine: dict[str, str], tmp_path: Path) -> None:
    assert run_batch(machine, "install-service").returncode == 0
    (tmp_path / "second 100%").mkdir()
    second = {**machine, "BATCH_HOME": str(tmp_path / "second 100%")}
    refused = run_batch(second, "install-service")
    assert refused.returncode == 1 and str(tmp_path / "home") in refused.stderr and "--name" in refused.stderr
    for _ in range(2):
        assert run_batch(second, "install-service", "--name", "second").returncode == 0
    assert run_batch(machine, "install-service", "--name", "../evil").returncode == 1


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


def test_variables_of_the_shell_that_the_service_will_not_know_are_named(machine: dict[str, str]) -> None:
    done = run_batch({**machine, "BATCH_VLM__PORT": "9000"}, "install-service")
    assert done.returncode == 0 and "BATCH_VLM__PORT" in done.stderr and "batch.toml" in done.stderr
