"""Print the versions that pyproject.toml allows at one of its ends: `python setup/resolve.py lowest|newest`. Needs uv.

CI installs both lists and runs the whole path with each, so that no bound is only believed. The tools that run the tests are
those of the lock file.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}
TEST_TOOLS = ("hypothesis", "jsonschema", "openai", "pytest", "pytest-timeout", "pytest-xdist")
"""What the end-to-end path needs beside the package."""


def main() -> None:
    if sys.argv[1:] not in [["lowest"], ["newest"]]:
        sys.exit(__doc__)
    uv = shutil.which("uv", path=sysconfig.get_path("scripts")) or shutil.which("uv")
    if uv is None:
        sys.exit("resolve: uv is not here: run `make dev`, or install it.")
    locked = (ROOT / "requirements-dev.lock").read_text("utf-8")
    pins = dict(re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", locked, re.MULTILINE))
    with tempfile.TemporaryDirectory() as folder:
        tools = Path(folder) / "tools.in"
        tools.write_text("".join(f"{name}=={pins[name]}\n" for name in TEST_TOOLS), "utf-8")
        command = [uv, "pip", "compile", "--quiet", "--no-config", "--no-annotate", "--no-header"]
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        where = ["--python-version", python, "--resolution", RESOLUTIONS[sys.argv[1]]]
        done = subprocess.run([*command, *where, str(ROOT / "pyproject.toml"), str(tools)], check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
