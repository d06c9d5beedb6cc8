"""The pinned packages of tests/js, installed once and kept between runs."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from paths import TESTS

SCRIPTS = TESTS / "js"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "batch" / "js"


def install_packages() -> Path:
    """A folder with node_modules, kept under the lock file's hash."""
    lock = (SCRIPTS / "package-lock.json").read_bytes()
    folder = CACHE / hashlib.sha256(lock).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / ".whole"  # npm may have been stopped half-way
    with (folder / ".lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # another test process may be at it
        if not whole.exists():
            for name in ("package.json", "package-lock.json"):
                shutil.copy(SCRIPTS / name, folder)
            npm = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
            subprocess.run(npm, cwd=folder, check=True, timeout=200)
            whole.touch()
    return folder
