"""A service beside its unit: one that runs by hand must stop first, and the unit's own command runs it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from batch.cli.service.service import systemd
from batch.settings import Settings
from running_service import WEIGHTLESS, RunningService, wait_until
from service_manager import command_words, pretended_machine, run_batch, unit_values


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    return pretended_machine(tmp_path)


def test_a_service_started_by_hand_must_be_stopped_first(machine: dict[str, str], tmp_path: Path) -> None:
    with RunningService(tmp_path / "home", WEIGHTLESS) as service:
        refused = run_batch(machine, "install-service")
        assert service.process is not None
        assert refused.returncode == 1 and f"pid {service.process.pid}" in refused.stderr


def test_the_unit_s_own_command_runs_the_service_whatever_lies_in_its_home(tmp_path: Path) -> None:
    home = tmp_path / "a home %h $HOME"
    home.mkdir()
    (home / "batch.toml").write_text(
        "".join(f'[{kind}]\nmodel = "weightless"\nport = 0\n' for kind in ("vlm", "embedding", "stt"))
    )
    for module in ("json.py", "batch.py", "socket.py"):
        (home / module).write_text("raise SystemExit('a file of the home was taken for a module')")
    found = unit_values(systemd(Settings.load(home)))
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        **dict(pair.split("=", 1) for pair in command_words(":" + found["Environment"])),
    }
    process = subprocess.Popen(
        command_words(found["ExecStart"]),
        cwd=found["WorkingDirectory"].replace("%%", "%"),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        asked = {**environment, "BATCH_HOME": str(home)}
        wait_until(lambda: run_batch(asked, "status", "--json").stdout.count('"status": "ready"') == 3, "the workers are up")
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait(10)
