"""The source archive and the wheel made from it hold what they need, and no tests that could not run there."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from paths import ROOT


class Archives(NamedTuple):
    """What the locked hatchling builds from a checkout."""

    sdist: Path
    wheel: Path
    package_files: set[str]
    """What the package holds there."""


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    """Built from a copy: while the archives are made, other tests write into this checkout what Python and they leave."""
    checkout, folder = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("dist")
    for name in ("batch", "docs", "tests"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
    for path in (*ROOT.glob("*.md"), ROOT / "LICENSE", ROOT / "pyproject.toml", ROOT / ".gitignore"):
        shutil.copy(path, checkout)
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)]
    subprocess.run(command, cwd=checkout, check=True, capture_output=True)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    paths = [path for path in (checkout / "batch").rglob("*") if path.is_file()]
    return Archives(sdist, wheel, {str(path.relative_to(checkout)) for path in paths})


def test_the_source_archive_holds_the_package_and_no_tests(archives: Archives) -> None:
    with tarfile.open(archives.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert len(archives.package_files) > 200 and archives.package_files <= names
    assert {"pyproject.toml", "LICENSE", "README.md"} <= names
    assert [name for name in names if name.startswith("tests/")] == []


def test_the_wheel_holds_the_package_with_its_data(archives: Archives) -> None:
    with zipfile.ZipFile(archives.wheel) as archive:
        assert archives.package_files <= set(archive.namelist())
        metadata = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "batch = batch.cli.app:main" in archive.read(metadata).decode()
