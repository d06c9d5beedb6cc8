"""Install everything into the virtual environment that runs this: `.venv/bin/python setup/install.py [--dev]`.

All from lock files with hashes. llama-cpp-python comes as source only and takes minutes to compile, so its wheel, which any
Python can use, is kept outside the checkout, by version, machine and CMAKE_ARGS. A build is trusted once its probe has run on
this very machine: one that was compiled for the processor that /proc/cpuinfo promises can end with an illegal instruction
here (AMX without the permission to use it), and then the next variant is taken. Standard library only.

`--requirements FILE` installs from another list, without hashes: CI tries the lowest and the newest versions so.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMPILED = "llama-cpp-python"
PROBE = ROOT / "batch" / "workers" / "llama" / "probe.py"
NOTE = Path(sys.prefix) / "batch-build.json"
"""Which variant was installed, and why not one before it."""
PROBE_TIMEOUT_S = 120
COMPILED_PER_VARIANT = "five minutes on two cores"


@dataclass(frozen=True)
class Variant:
    """One way to compile the library; the first whose probe computes is used."""

    name: str
    cmake_args: str
    """What stands before the user's own CMAKE_ARGS."""
    flag: str = ""
    """A processor flag without which this variant is the same as the first."""


_NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
VARIANTS = (
    Variant("for this processor", ""),
    Variant("without AMX", f"-DCMAKE_C_FLAGS='{_NO_AMX}' -DCMAKE_CXX_FLAGS='{_NO_AMX}'", "amx_tile"),
    Variant("for any processor with AVX2", "-DGGML_NATIVE=OFF"),
)


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - runs before anything else could refuse
        sys.exit(f"batch needs Python 3.11 or newer, not {platform.python_version()}: make PYTHON=python3.11 …")
    file, hashed = requirements_file()
    requirements = file.read_text("utf-8")
    compiled = re.search(rf"^{COMPILED}==.*?(?=^\S|\Z)", requirements, re.MULTILINE | re.DOTALL)
    if compiled is None:
        sys.exit(f"{file.name} names no {COMPILED}: run `make lock`.")
    check = ["--require-hashes"] if hashed else []
    pip("install", "--require-hashes", "--no-deps", "-r", str(ROOT / "requirements-build.lock"))
    with tempfile.TemporaryDirectory() as folder:
        others = Path(folder) / "others.txt"
        others.write_text(requirements.replace(compiled[0], ""), "utf-8")
        say("installing the libraries")
        pip("install", *check, "--no-deps", "-r", str(others))
    install_compiled(compiled[0], check)
    pip("install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    say("installed")


def requirements_file() -> tuple[Path, bool]:
    """(the list to install from, whether it has hashes)."""
    if "--requirements" in sys.argv:
        return Path(sys.argv[sys.argv.index("--requirements") + 1]), False
    return ROOT / ("requirements-dev.lock" if "--dev" in sys.argv else "requirements.lock"), True


def install_compiled(requirement: str, check: list[str]) -> None:
    """Install the compiled library in the first variant that computes on this machine; a build is never trusted unprobed,
    as the cache may have come here from another machine."""
    flags = processor_flags()
    failures = []
    for variant in VARIANTS:
        if variant.flag and variant.flag not in flags.split():
            continue
        wheel = cached_wheel(requirement, variant, flags) or compile_wheel(requirement, variant, flags, check)
        if wheel is None:
            failures.append(f"{variant.name}: could not be compiled")
            continue
        pip("install", "--no-deps", "--force-reinstall", str(wheel))
        failure = probe()
        if failure is None:
            # for `batch doctor`
            NOTE.write_text(json.dumps({COMPILED: {"variant": variant.name, "failures": failures}}), "utf-8")
            return
        failures.append(f"{variant.name}: {failure}")
        say(f"{COMPILED}, compiled {variant.name}, does not run here ({failure})")
    sys.exit(f"setup: no build of {COMPILED} runs on this machine ({'; '.join(failures)}).")


def probe() -> str | None:
    """Why the installed library does not compute here, in a few words; None when it does."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(PROBE)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_TIMEOUT_S,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"its probe was not done after {PROBE_TIMEOUT_S} seconds"
    if done.returncode < 0:
        with contextlib.suppress(ValueError):
            return (signal.strsignal(-done.returncode) or f"signal {-done.returncode}").lower()
        return f"signal {-done.returncode}"
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
    return None


def cached_wheel(requirement: str, variant: Variant, flags: str) -> Path | None:
    """The wheel that an earlier set-up compiled, if there is one."""
    return next(iter(sorted(wheel_folder(requirement, variant, flags).glob("*.whl"))), None)


def compile_wheel(requirement: str, variant: Variant, flags: str, check: list[str]) -> Path | None:
    """Compile the wheel into the cache; None when that fails."""
    folder = wheel_folder(requirement, variant, flags)
    folder.parent.mkdir(parents=True, exist_ok=True)
    say(f"compiling {COMPILED} {variant.name}: once for this machine, {COMPILED_PER_VARIANT}")
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        listed = Path(work) / "listed.txt"
        listed.write_text(requirement, "utf-8")
        built = Path(work) / "built"
        environment = {**os.environ, "CMAKE_ARGS": cmake_args(variant)}
        # no cache of pip's: it does not tell one CMAKE_ARGS from another
        options = ["--no-cache-dir", *check, "--no-deps", "--no-build-isolation", "--no-binary", COMPILED]
        if not pip("wheel", *options, "--wheel-dir", str(built), "-r", str(listed), environment=environment, must=False):
            return None
        built.chmod(0o755)
        with contextlib.suppress(OSError):  # another set-up was first
            built.rename(folder)
    return cached_wheel(requirement, variant, flags)


def wheel_folder(requirement: str, variant: Variant, flags: str) -> Path:
    """Where a wheel lies: by version, system, the processor's vector instructions and CMAKE_ARGS; Python loads it by
    ctypes, so all Pythons share it."""
    version = requirement.split("==")[1].split()[0]
    key = hashlib.sha256(f"{vector_instructions(flags)}\n{cmake_args(variant)}".encode()).hexdigest()[:12]
    return cache_folder() / f"{COMPILED}-{version}" / f"{sysconfig.get_platform()}-{key}"


def cmake_args(variant: Variant) -> str:
    return f"{variant.cmake_args} {os.environ.get('CMAKE_ARGS', '')}".strip()


def processor_flags() -> str:
    """What the processor says that it can do; empty where the system does not tell."""
    try:
        found = re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return ""
    return found[1] if found else ""


def vector_instructions(flags: str) -> str:
    """The flags that the compiler uses: in a home that moves, another processor must not find that build."""
    if not flags:
        return platform.processor()
    known = r"(avx\w*|amx\w*|fma|f16c|bmi2|sse4_2|sve\w*|asimd\w*|i8mm|bf16)"
    return " ".join(sorted({flag for flag in flags.split() if re.fullmatch(known, flag)}))


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "batch" / "wheels"


def pip(command: str, *args: str, environment: dict[str, str] | None = None, must: bool = True) -> bool:
    """Run this environment's pip, which says itself what went wrong; ends the set-up then if it `must` work."""
    options = ["--quiet", "--disable-pip-version-check", "--no-input"]
    done = subprocess.run([sys.executable, "-m", "pip", command, *options, *args], env=environment, check=False)
    if done.returncode and must:
        sys.exit(f"setup: pip {command} failed (see above)")
    return done.returncode == 0


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


if __name__ == "__main__":
    main()
