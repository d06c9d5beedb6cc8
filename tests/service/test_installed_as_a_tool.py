"""Installed as people install: by uv and by pipx, from a checkout and from the source archive, working from any folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from paths import ROOT
from running_service import WEIGHTLESS, wait_until

UV = shutil.which("uv", path=sysconfig.get_path("scripts")) or shutil.which("uv")
PIPX = "pipx>=1.8,<2"
WHEELS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "batch" / "wheels"
HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}},
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(UV is None, reason="uv is not here"),
    pytest.mark.timeout(600),
]


class InstalledTool(NamedTuple):
    """The command, an environment for it, and whether the extra for agents came with it."""

    command: Path
    environment: dict[str, str]
    has_mcp: bool

    def run(self, folder: Path, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.command, *arguments],
            cwd=folder,
            env=self.environment,
            capture_output=True,
            text=True,
            input=text,
            timeout=120,
        )


def compiled_wheels() -> list[str]:
    """Where set-up keeps the compiled llama.cpp, so that no tool's environment compiles it again."""
    return [word for wheel in WHEELS.rglob("*.whl") for word in ("--find-links", str(wheel.parent))]


def source_archive(folder: Path) -> Path:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return next(folder.glob("*.tar.gz"))


def install(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(
    params=[
        ("uv", "checkout", True),
        ("uv", "source archive", False),
        ("pipx", "checkout", False),
        ("pipx", "source archive", True),
    ],
    ids=lambda choice: f"{choice[0]}, {choice[1]}",
)
def tool(request: pytest.FixtureRequest, tmp_path: Path) -> InstalledTool:
    installer, origin, has_mcp = request.param
    source = f"{ROOT if origin == 'checkout' else source_archive(tmp_path)}{'[mcp]' if has_mcp else ''}"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "BATCH_", "PIP", "UV_TOOL"))},
        "UV_TOOL_DIR": str(tmp_path / "tools"),
        "UV_TOOL_BIN_DIR": str(tmp_path / "bin"),
        "PIPX_HOME": str(tmp_path / "pipx"),
        "PIPX_BIN_DIR": str(tmp_path / "bin"),
        "PIPX_MAN_DIR": str(tmp_path / "man"),
    }
    assert UV is not None
    if installer == "uv":
        install([UV, "tool", "install", "--quiet", "--python", sys.executable, *compiled_wheels(), source], environment)
    else:
        pipx = [UV, "tool", "run", "--quiet", "--no-config", "--python", sys.executable, "--from", PIPX, "pipx"]
        if subprocess.run([*pipx, "--version"], env=environment, capture_output=True, timeout=120).returncode:
            pytest.skip("pipx is not here, and the package index cannot be reached")
        options = ["--python", sys.executable, "--pip-args", " ".join(compiled_wheels())]
        install([*pipx, "install", "--quiet", *options, source], environment)
    return InstalledTool(tmp_path / "bin" / "batch", environment, has_mcp)


def test_an_installed_tool_works_from_any_folder(tool: InstalledTool, tmp_path: Path) -> None:
    home = tmp_path / "a home"
    home.mkdir()
    assert tool.run(home, "--version").stdout.startswith("batch ")
    resolved = json.loads(tool.run(home, "models", "--json").stdout)
    assert any(row["name"] == "tiny-gemma4v" and row["fetched"] for row in resolved), "the packaged model is there"
    ports = [word for kind in ("vlm", "embedding", "stt") for word in (f"--{kind}-port", "0")]
    log = (tmp_path / "log").open("w")
    service = subprocess.Popen(
        [tool.command, "serve", *ports],
        cwd=home,
        env={**tool.environment, **WEIGHTLESS},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        wait_until(lambda: (home / "inbox").is_dir(), "it is up")
        partial = home / ".note"
        partial.write_text("a note")
        partial.rename(home / "inbox" / "note.txt")
        wait_until(lambda: (home / "outbox" / "note.txt.json").exists(), "the note's result", 60)
        check_agent(tool, home)
    finally:
        service.terminate()
        service.wait(30)
        log.close()
    assert service.returncode == 0


def check_agent(tool: InstalledTool, home: Path) -> None:
    """`batch mcp` serves an agent where its extra was installed, and names the extra where it was not."""
    asked: list[dict[str, Any]] = [
        HELLO,
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "status", "arguments": {}}},
    ]
    if not tool.has_mcp:
        refused = tool.run(home, "mcp", text="")
        assert refused.returncode == 1 and "batch-engine[mcp]" in refused.stderr and "Traceback" not in refused.stderr
        return
    with subprocess.Popen(
        [tool.command, "mcp"], cwd=home, env=tool.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as agent:
        assert agent.stdin is not None and agent.stdout is not None
        agent.stdin.write("".join(f"{json.dumps(message)}\n" for message in asked))
        agent.stdin.flush()
        answers = {}
        while 2 not in answers:
            answer = json.loads(agent.stdout.readline())
            answers[answer.get("id")] = answer
        assert answers[1]["result"]["serverInfo"]["name"] == "batch"
        assert answers[2]["result"]["structuredContent"]["inbox"]["done"] == 1
        agent.stdin.close()
        assert agent.wait(30) == 0
