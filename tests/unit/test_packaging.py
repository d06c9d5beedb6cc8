"""The source archive and the wheel made from it hold what they need, and no tests that could not run there."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from paths import ROOT


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(the source archive, the wheel), built by the locked hatchling."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def package_files() -> set[str]:
    """What the package holds in this checkout, but for what Python leaves."""
    paths = [path for path in (ROOT / "batch").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {str(path.relative_to(ROOT)) for path in paths}


def test_the_source_archive_holds_the_package_and_no_tests(archives: tuple[Path, Path]) -> None:
    with tarfile.open(archives[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert package_files() <= names
    assert {"pyproject.toml", "LICENSE", "README.md"} <= names
    assert [name for name in names if name.startswith("tests/")] == []


def test_the_wheel_holds_the_package_with_its_data(archives: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(archives[1]) as archive:
        assert package_files() <= set(archive.namelist())
        metadata = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "batch = batch.cli.app:main" in archive.read(metadata).decode()
