"""Scripts of tests/clients, run in an environment of their own: what they import cannot stand beside the dev group."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paths import TESTS

SCRIPTS = TESTS / "clients"
LOCK = SCRIPTS / "requirements.lock"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "batch" / "python-clients"


def install_packages(lock: Path = LOCK) -> Path:
    """The Python of the environment with the packages that a lock file pins, made once and kept under the file's hash and
    the version of the Python that runs this."""
    key = hashlib.sha256(f"{sys.base_prefix} {platform.python_version()}\n{lock.read_text('utf-8')}".encode()).hexdigest()
    folder = CACHE / key[:16]
    folder.mkdir(parents=True, exist_ok=True)
    python = folder / "venv" / "bin" / "python"
    whole = folder / ".whole"  # uv may have been stopped half-way
    with (folder / ".lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # another test process may be at it
        if not whole.exists():
            run_uv("venv", "--clear", "--python", sys.executable, str(folder / "venv"))
            run_uv("pip", "sync", "--python", str(python), "--require-hashes", "--only-binary", ":all:", str(lock))
            whole.touch()
    return python


def run_uv(*arguments: str) -> None:
    """Run uv, which the development packages bring. Raises CalledProcessError."""
    import uv  # here, as the path's tests run without the development packages too

    options = ["--quiet", "--no-config", "--no-python-downloads"]
    subprocess.run([uv.find_uv_bin(), *options, *arguments], check=True, timeout=250)


def run_client(name: str, variables: Mapping[str, str]) -> dict[str, Any]:
    """What a script of tests/clients printed as JSON; this process's own variables that would steer a client are left out."""
    steering = ("PYTHON", "OPENAI_", "LITELLM_", "BATCH_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(steering)}
    ran = subprocess.run(
        [str(install_packages()), str(SCRIPTS / name)],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return dict(json.loads(ran.stdout))
