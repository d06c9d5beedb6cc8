"""Scripts of tests/js, run by Node beside the packages that they import."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

import pytest

from javascript_packages import SCRIPTS, install_packages

needs_node = pytest.mark.skipif(
    shutil.which("node") is None or shutil.which("npm") is None,
    reason="the JavaScript clients need Node with npm, which this machine does not have",
)


def run_script(name: str, variables: Mapping[str, str]) -> dict[str, Any]:
    """What a script of tests/js printed as JSON."""
    # Beside node_modules, where imports are looked up; under a name that no other test process writes to.
    packages = install_packages()
    script = packages / f"{name.removesuffix('.mjs')}-{os.getpid()}.mjs"
    shutil.copy(SCRIPTS / name, script)
    try:
        ran = subprocess.run(
            ["node", str(script)], env={**os.environ, **variables}, capture_output=True, text=True, timeout=200
        )
    finally:
        script.unlink()
    assert ran.returncode == 0, ran.stderr
    return dict(json.loads(ran.stdout))
