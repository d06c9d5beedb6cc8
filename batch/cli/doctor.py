"""`batch doctor`: what would keep the service from working here, each with its mend."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from batch.cli.app import Home, Json
from batch.cli.models import Profile, effective, service
from batch.cli.output import print_json, safe_line, terminal
from batch.errors import ModelProblem
from batch.model_kind import Kind

if TYPE_CHECKING:
    from batch.settings import Settings

_LITTLE_DISK = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    found: str
    mend: str = ""
    """What to do about it; empty when all is well."""


def doctor(home: Home = None, profile: Profile = None, as_json: Json = False) -> None:
    """Check Python, libraries, ports, models, disk and graphics; say how to mend what is wrong."""
    findings = list(examine(effective(home, profile)))
    if as_json:
        print_json([{**asdict(finding), "ok": not finding.mend} for finding in findings])
    else:
        console = terminal()
        for finding in findings:
            console.print("ok   " if not finding.mend else "MEND ", style="red" if finding.mend else "green", end="")
            console.print(safe_line(f"{finding.what}: {finding.found}"))
            if finding.mend:
                console.print(safe_line(f"       {finding.mend}"))
    if any(finding.mend for finding in findings):
        raise typer.Exit(1)


def examine(settings: Settings) -> Iterator[Finding]:
    """Every check in turn; nothing is changed and no model library is loaded into this process."""
    yield _python()
    yield _sqlite()
    yield from _libraries()
    yield _graphics()
    for kind in Kind:
        yield _port(settings, kind)
    for kind in Kind:
        yield _model(settings, kind)
    yield _folder("home", settings.home)
    yield _folder("models folder", settings.models_dir)


def _python() -> Finding:
    version = f"{platform.python_version()} ({sys.executable})"
    return Finding("Python", version, "" if sys.version_info >= (3, 11) else "Install Python 3.11 or newer.")


def _sqlite() -> Finding:
    fit = sqlite3.sqlite_version_info >= (3, 35)  # returning
    return Finding("SQLite", sqlite3.sqlite_version, "" if fit else "Install a Python with SQLite 3.35 or newer.")


def _libraries() -> Iterator[Finding]:
    """What the package requires is installed, and the two model libraries load."""
    from packaging.requirements import Requirement

    try:
        needs = importlib.metadata.requires("batch-engine") or []
    except importlib.metadata.PackageNotFoundError:
        needs = []
        yield Finding("batch", "not installed, run from its folder", "Run `make setup`.")
    wrong = []
    for line in needs:
        need = Requirement(line)
        if need.marker and not need.marker.evaluate():
            continue
        try:
            version = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{need.name} is missing")
            continue
        if version not in need.specifier:
            wrong.append(f"{need.name} is {version}, not {need.specifier}")
    yield Finding("libraries", "; ".join(wrong) or "all there", "Run `make setup` again." if wrong else "")
    for name, module in (("llama.cpp", "llama_cpp"), ("whisper.cpp", "_pywhispercpp")):
        done = _ask(f"import {module}; print('loads')")
        last = (done.stderr.strip().splitlines() or ["it crashed"])[-1]
        yield Finding(
            name,
            "loads" if done.returncode == 0 else last,
            "" if done.returncode == 0 else "Build it again: remove .venv and run `make setup`.",
        )


def _graphics() -> Finding:
    """A GPU that llama.cpp was not built for is a loss, not a fault."""
    done = _ask("import llama_cpp; print(bool(llama_cpp.llama_supports_gpu_offload()))")
    if done.stdout.strip().endswith("True"):
        return Finding("graphics", "llama.cpp is built for the GPU")
    if shutil.which("nvidia-smi") is None:
        return Finding("graphics", "llama.cpp is built for the CPU, and no NVIDIA GPU is seen here")
    return Finding(
        "graphics",
        "llama.cpp is built for the CPU, but this machine has an NVIDIA GPU",
        'To use it: CMAKE_ARGS="-DGGML_CUDA=on" make setup (needs the CUDA toolkit).',
    )


def _ask(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in another process, as the model libraries may crash and are big."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def _port(settings: Settings, kind: Kind) -> Finding:
    port = settings.model_of(kind).port
    what = f"port of {kind}"
    if port == 0:
        return Finding(what, "a free one is taken at start")
    running = service(settings)
    if running and running["ports"].get(kind) == port:
        return Finding(what, f"{port}, served by batch (pid {running['pid']})")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return Finding(
                what,
                f"{port} cannot be taken ({error.strerror})",
                f"End the program that uses it, or set {kind}.port to another.",
            )
    return Finding(what, f"{port} is free")


def _model(settings: Settings, kind: Kind) -> Finding:
    from batch.catalog import resolve

    try:
        found = resolve(settings, kind)
    except ModelProblem as problem:
        text, _, mend = problem.message.partition(": ")
        return Finding(f"model for {kind}", text, (mend[:1].upper() + mend[1:]) or "Name another model in batch.toml.")
    return Finding(f"model for {kind}", f"{found.name}. {found.notes}".strip())


def _folder(what: str, folder: Path) -> Finding:
    """It, or the first folder above it that exists, can be written and has room."""
    exists = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(exists).free
    found = f"{folder}, {free / 1e9:.1f} GB free"
    if not os.access(exists, os.W_OK):
        return Finding(what, found, f"Make {exists} writable for you.")
    if free < _LITTLE_DISK:
        return Finding(what, found, "Make room: below 2 GB pulls and long sound files fail.")
    return Finding(what, found)
