"""Install everything into the virtual environment that runs this: `.venv/bin/python setup/install.py [--dev]`.

All from lock files with hashes. llama-cpp-python comes as source only and takes minutes to compile, so its wheel,
which any Python can use, is kept outside the checkout, by version, machine and CMAKE_ARGS. Standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMPILED = "llama-cpp-python"


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - runs before anything else could refuse
        sys.exit(f"batch needs Python 3.11 or newer, not {platform.python_version()}: make PYTHON=python3.11 …")
    lock = (ROOT / ("requirements-dev.lock" if "--dev" in sys.argv else "requirements.lock")).read_text("utf-8")
    compiled = re.search(rf"^{COMPILED}==.*?(?=^\S|\Z)", lock, re.MULTILINE | re.DOTALL)
    if compiled is None:
        sys.exit(f"The lock file names no {COMPILED}: run `make lock`.")
    pip("install", "--require-hashes", "--no-deps", "-r", str(ROOT / "requirements-build.lock"))
    with tempfile.TemporaryDirectory() as folder:
        others = Path(folder) / "others.txt"
        others.write_text(lock.replace(compiled[0], ""), "utf-8")
        say("installing the libraries")
        pip("install", "--require-hashes", "--no-deps", "-r", str(others))
    pip("install", "--no-deps", "--force-reinstall", str(llama_wheel(compiled[0])))
    pip("install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    say("installed")


def llama_wheel(requirement: str) -> Path:
    """The compiled wheel of the locked version, from the cache or built now."""
    version = requirement.split("==")[1].split()[0]
    folder = cache() / f"{COMPILED}-{version}" / key()
    if found := sorted(folder.glob("*.whl")):
        return found[0]
    folder.parent.mkdir(parents=True, exist_ok=True)
    say(f"compiling {COMPILED} {version}: once for this machine, five minutes on two cores")
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        wanted = Path(work) / "wanted.txt"
        wanted.write_text(requirement, "utf-8")
        built = Path(work) / "built"
        # no cache of pip's: it does not tell one CMAKE_ARGS from another
        pip(
            "wheel",
            "--no-cache-dir",
            "--require-hashes",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            str(built),
            "-r",
            str(wanted),
        )
        built.chmod(0o755)
        with contextlib.suppress(OSError):  # another build was first
            built.rename(folder)
    return sorted(folder.glob("*.whl"))[0]


def key() -> str:
    """What a compiled wheel fits: a system, a machine with its vector instructions, CMAKE_ARGS. Python loads it by ctypes."""
    parts = f"{vector_instructions()}\n{os.environ.get('CMAKE_ARGS', '')}"
    return f"{sysconfig.get_platform()}-{hashlib.sha256(parts.encode()).hexdigest()[:12]}"


def vector_instructions() -> str:
    """llama.cpp is compiled for the very processor; in a home that moves, another must not find that build."""
    try:
        flags = re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return platform.processor()
    known = r"(avx\w*|amx\w*|fma|f16c|bmi2|sse4_2|sve\w*|asimd\w*|i8mm|bf16)"
    return " ".join(sorted({flag for flag in flags[1].split() if re.fullmatch(known, flag)})) if flags else ""


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "batch" / "wheels"


def pip(*args: str) -> None:
    """Run this environment's pip; a failure has said why."""
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
    done = subprocess.run([sys.executable, "-m", "pip", *args[:1], *quiet, *args[1:]], check=False)
    if done.returncode:
        sys.exit(f"setup: pip {args[0]} failed (see above)")


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


if __name__ == "__main__":
    main()
