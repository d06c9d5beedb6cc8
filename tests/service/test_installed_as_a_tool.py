"""Installed as people install: `uv tool install` of a checkout and of the source archive, working from any folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from paths import ROOT
from running_service import WEIGHTLESS, wait_until

UV = shutil.which("uv", path=sysconfig.get_path("scripts")) or shutil.which("uv")
WHEELS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "batch" / "wheels"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(UV is None, reason="uv is not here"),
    pytest.mark.timeout(600),
]


def compiled_wheels() -> list[str]:
    """Where set-up keeps the compiled llama.cpp, so that no tool's environment compiles it again."""
    return [word for wheel in WHEELS.rglob("*.whl") for word in ("--find-links", str(wheel.parent))]


@pytest.fixture(params=["checkout", "source archive"])
def tool(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """(the installed command, an environment for it)."""
    source = ROOT
    if request.param == "source archive":
        build = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(tmp_path)]
        subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
        source = next(tmp_path.glob("*.tar.gz"))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "BATCH_"))},
        "UV_TOOL_DIR": str(tmp_path / "tools"),
        "UV_TOOL_BIN_DIR": str(tmp_path / "bin"),
    }
    assert UV is not None
    install = [UV, "tool", "install", "--quiet", "--python", sys.executable, *compiled_wheels(), str(source)]
    done = subprocess.run(install, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return tmp_path / "bin" / "batch", environment


def test_a_tool_that_uv_installed_works_from_any_folder(tool: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    command, environment = tool
    home = tmp_path / "a home"
    home.mkdir()

    def batch(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([command, *arguments], cwd=home, env=environment, capture_output=True, text=True, timeout=120)

    assert batch("--version").stdout.startswith("batch ")
    resolved = json.loads(batch("models", "--json").stdout)
    assert any(row["name"] == "tiny-gemma4v" and row["fetched"] for row in resolved), "the packaged model is there"
    ports = [word for kind in ("vlm", "embedding", "stt") for word in (f"--{kind}-port", "0")]
    log = (tmp_path / "log").open("w")
    service = subprocess.Popen(
        [command, "serve", *ports], cwd=home, env={**environment, **WEIGHTLESS}, stdout=log, stderr=subprocess.STDOUT
    )
    try:
        wait_until(lambda: (home / "inbox").is_dir(), "it is up")
        partial = home / ".note"
        partial.write_text("a note")
        partial.rename(home / "inbox" / "note.txt")
        wait_until(lambda: (home / "outbox" / "note.txt.json").exists(), "the note's result", 60)
    finally:
        service.terminate()
        service.wait(30)
        log.close()
    assert service.returncode == 0
