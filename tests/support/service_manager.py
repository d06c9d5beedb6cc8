"""A pretended systemctl, and units read back as systemd reads them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path


def pretended_machine(tmp_path: Path) -> dict[str, str]:
    """An environment of its own, with a systemctl that writes down what it is told."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (tmp_path / "home").mkdir()
    fake = programs / "systemctl"
    fake.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/told\nexit 0\n')
    fake.chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("BATCH_", "XDG_"))}
    return {**kept, "PATH": str(programs), "HOME": str(tmp_path), "BATCH_HOME": str(tmp_path / "home")}


def run_batch(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "batch", *arguments],
        env=environment,
        text=True,
        capture_output=True,
        cwd="/",
        timeout=60,
        check=False,
    )


def unit_values(unit: str) -> dict[str, str]:
    lines = [line for line in unit.splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def command_words(command: str) -> list[str]:
    """ExecStart's words as systemd.syntax(7) reads quotes, escapes and specifiers."""
    assert command.startswith(":"), "no variables in the command"
    found = re.findall(r'"((?:[^"\\]|\\.)*)"', command[1:])
    return [re.sub(r"\\(.)", r"\1", word).replace("%%", "%") for word in found]
