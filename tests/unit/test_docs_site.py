"""The documentation site: built with every link checked, and with nothing from another host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from paths import ROOT

mkdocs = pytest.importorskip("mkdocs", reason="mkdocs-material is not here")


def build(folder: Path, target: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "true"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_the_site_builds_with_every_link_leading_somewhere(tmp_path: Path) -> None:
    built = build(ROOT, tmp_path / "site")
    assert built.returncode == 0, built.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 30 and (tmp_path / "site" / "architecture.html").exists()
    for page in pages:
        loaded = re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(https?:[^"]+)"', page.read_text("utf-8"))
        assert [address for address in loaded if "canonical" not in address] == [], page.name


@pytest.mark.slow
def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    for name in ("docs", "mkdocs.yml", "bench", "batch", *(page.name for page in ROOT.glob("*.md"))):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "docs").unlink()
    (tmp_path / "docs").mkdir()
    for entry in (ROOT / "docs").iterdir():
        if entry.name == "site_hooks.py":  # it finds the repository by its own place
            (tmp_path / "docs" / entry.name).write_text(entry.read_text("utf-8"))
        elif entry.name == "speech.md":
            (tmp_path / "docs" / entry.name).write_text(entry.read_text("utf-8") + "\n[nowhere](outbox.md#no-such-heading)\n")
        else:
            (tmp_path / "docs" / entry.name).symlink_to(entry)
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode != 0 and "no-such-heading" in built.stderr
