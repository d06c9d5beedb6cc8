"""Install everything into the virtual environment that runs this: `.venv/bin/python setup/install.py [--dev]`.

All from lock files with hashes. The model libraries are compiled for this machine: llama-cpp-python comes as source only, and
pywhispercpp's wheel is for any processor with AVX2. That takes minutes, so the wheels are kept outside the checkout, by
version, machine and CMAKE_ARGS. A build is trusted once its probe has run on this very machine: one that was compiled for the
processor that /proc/cpuinfo promises can end with an illegal instruction here (AMX without the permission to use it), and then
the next variant is taken. Standard library only.

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
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out
import llama_source

ROOT = Path(__file__).parent.parent
WORKERS = ROOT / "batch" / "workers"
NOTE = Path(sys.prefix) / "batch-build.json"
"""Which variant of each compiled library was installed, and why not one before it."""
PROBE_TIMEOUT_S = 120
CUDA_DURATION = "with CUDA half an hour on two cores, five minutes on sixteen"


@dataclass(frozen=True)
class Variant:
    """One way to compile a library; the first whose probe computes is used."""

    name: str
    cmake_args: str = ""
    """What stands before the user's own CMAKE_ARGS."""
    compiler_flags: str = ""
    """What stands before the user's own CFLAGS and CXXFLAGS: the two libraries cut CMAKE_ARGS at blanks in different ways."""
    flag: str = ""
    """A processor flag without which this variant is the same as the first."""


VARIANTS = (
    Variant("for this processor"),
    Variant("without AMX", compiler_flags="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16", flag="amx_tile"),
    Variant("for any processor with AVX2", "-DGGML_NATIVE=OFF"),
)

TINY_BLAS = " -DGGML_LLAMAFILE=ON" if platform.machine() in ("x86_64", "AMD64") else ""
"""llamafile's matrix product, which llama.cpp has by default and whisper.cpp has not: its encoder takes 0.6 of its time so.
On ARM it adds up in half precision."""


@dataclass(frozen=True)
class Library:
    """A model library that is compiled for this machine."""

    package: str
    probe: Path
    """A program that computes with it, and imports nothing of batch, which is installed later."""
    duration: str
    """What compiling one variant takes."""
    variants: tuple[Variant, ...] = VARIANTS
    cmake_args: str = ""
    """What every variant is compiled with."""
    is_changed: bool = False
    """Whether its source is changed before it is compiled (`llama_source`)."""
    is_extension: bool = False
    """Whether it is built for one version of Python; one that Python loads by ctypes is shared by all."""
    has_wheel: bool = False
    """Whether the package index has a wheel of it, for where no variant runs."""


LIBRARIES = (
    Library("llama-cpp-python", WORKERS / "llama" / "probe.py", "five minutes on two cores", is_changed=True),
    Library(
        "pywhispercpp",
        WORKERS / "speech" / "whisper" / "probe.py",
        "a minute on two cores",
        VARIANTS[:2],  # its wheel is the last one
        # all in one file: a shared libggml would have llama.cpp's name, and be looked for in the folder it was built in
        "-DBUILD_SHARED_LIBS=OFF -DCMAKE_POSITION_INDEPENDENT_CODE=ON" + TINY_BLAS,
        is_extension=True,
        has_wheel=True,
    ),
)


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - runs before anything else could refuse
        sys.exit(f"batch needs Python 3.11 or newer, not {platform.python_version()}: make PYTHON=python3.11 …")
    file, hashed = requirements_file()
    others = file.read_text("utf-8")
    requirements = {}
    for library in LIBRARIES:
        found = re.search(rf"^{library.package}==.*?(?=^\S|\Z)", others, re.MULTILINE | re.DOTALL)
        if found is None:
            sys.exit(f"{file.name} names no {library.package}: run `make lock`.")
        requirements[library] = found[0]
        others = others.replace(found[0], "")
    check = ["--require-hashes"] if hashed else []
    pip("install", "--require-hashes", "--no-deps", "-r", str(ROOT / "requirements-build.lock"))
    say("installing the libraries")
    install_listed(others, check)
    for library, requirement in requirements.items():
        install_compiled(library, requirement, check)
    pip("install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    say("installed")


def requirements_file() -> tuple[Path, bool]:
    """(the list to install from, whether it has hashes)."""
    if "--requirements" in sys.argv:
        return Path(sys.argv[sys.argv.index("--requirements") + 1]), False
    return ROOT / ("requirements-dev.lock" if "--dev" in sys.argv else "requirements.lock"), True


def install_listed(requirements: str, check: list[str], *options: str) -> None:
    """Install what a list names, as the package index has it."""
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "listed.txt"
        listed.write_text(requirements, "utf-8")
        pip("install", *check, "--no-deps", *options, "-r", str(listed))


def install_compiled(library: Library, requirement: str, check: list[str]) -> None:
    """Install a library in the first variant that computes on this machine; a build is never trusted unprobed, as the cache
    may have come here from another machine."""
    flags = processor_flags()
    failures: list[str] = []
    for variant in library.variants:
        if variant.flag and variant.flag not in flags.split():
            continue
        build = Build(library, variant, requirement, flags)
        wheel = build.cached() or build.compile(check)
        if wheel is None:
            failures.append(f"{variant.name}: could not be compiled")
            continue
        pip("install", "--no-deps", "--force-reinstall", str(wheel))
        failure = probe(library)
        if failure is None:
            note_build(library, variant.name, failures, llama_source.digest() if library.is_changed else "")
            return
        failures.append(f"{variant.name}: {failure}")
        say(f"{library.package}, compiled {variant.name}, does not run here ({failure})")
    reasons = "; ".join(failures)
    if library.has_wheel:
        install_listed(requirement, check, "--force-reinstall")
        failure = probe(library)
        if failure is None:
            say(f"{library.package} is the package index's build, which is slower on newer processors ({reasons})")
            note_build(library, "by the package index", failures)
            return
        reasons += f"; by the package index: {failure}"
    sys.exit(f"setup: no build of {library.package} runs on this machine ({reasons}).")


def note_build(library: Library, variant: str, failures: list[str], changes: str = "") -> None:
    """Note for `batch doctor` which build of a library this environment has; `changes`: what its source was changed by, for
    workers, as numbers may differ from those of others."""
    try:
        notes = json.loads(NOTE.read_text("utf-8"))
    except (OSError, ValueError):
        notes = {}
    note = {"variant": variant, "failures": failures, **({"changes": changes} if changes else {})}
    NOTE.write_text(json.dumps({**notes, library.package: note}), "utf-8")


def probe(library: Library) -> str | None:
    """Why an installed library does not compute here, in a few words; None when it does."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(library.probe)],
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


@dataclass(frozen=True)
class Build:
    """A variant of a library in one version, for a processor."""

    library: Library
    variant: Variant
    requirement: str
    """Its lines in the lock file."""
    processor_flags: str

    @property
    def cmake_args(self) -> str:
        """All that cmake is told."""
        own = (self.variant.cmake_args, self.library.cmake_args, os.environ.get("CMAKE_ARGS", ""))
        return " ".join(filter(None, own))

    @property
    def folder(self) -> Path:
        """Where its wheel lies: by version, system, the processor's vector instructions, what it is compiled with, and
        Python's version where the wheel is for one."""
        version = self.requirement.split("==")[1].split()[0]
        parts = [vector_instructions(self.processor_flags), self.cmake_args]
        if self.variant.compiler_flags:
            parts.append(self.variant.compiler_flags)
        if self.library.is_extension:
            parts.append(str(sys.implementation.cache_tag))
        if self.library.is_changed:
            parts.append(llama_source.digest())
        key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
        return cache_folder() / f"{self.library.package}-{version}" / f"{sysconfig.get_platform()}-{key}"

    def cached(self) -> Path | None:
        """The wheel that an earlier set-up compiled, if there is one."""
        return next(iter(sorted(self.folder.glob("*.whl"))), None)

    def compile(self, check: list[str]) -> Path | None:
        """Compile the wheel into the cache; None when that fails."""
        package, folder = self.library.package, self.folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        duration = CUDA_DURATION if "GGML_CUDA" in self.cmake_args else self.library.duration
        say(f"compiling {package} {self.variant.name}: once for this machine, {duration}")
        with tempfile.TemporaryDirectory(dir=folder.parent) as work:
            listed = Path(work) / "listed.txt"
            listed.write_text(self.requirement, "utf-8")
            built = Path(work) / "built"
            # no cache of pip's: it does not tell one CMAKE_ARGS from another
            common = ["--no-cache-dir", "--no-deps", "--no-build-isolation"]
            source = [*check, "--no-binary", package, "-r", str(listed)]
            environment = self.environment()
            if self.library.is_changed:
                if not pip("download", *common, *source, "--dest", work, environment=environment, must=False):
                    return None
                source = [str(self.change(Path(work)))]
            if not pip("wheel", *common, "--wheel-dir", str(built), *source, environment=environment, must=False):
                return None
            built.chmod(0o755)
            with contextlib.suppress(OSError):  # another set-up was first
                built.rename(folder)
        return self.cached()

    def change(self, work: Path) -> Path:
        """Unpack the sdist that was fetched into a folder, and change its source; the unpacked folder."""
        (archive,) = work.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            # Its hash was checked; the first Pythons 3.11 know no filters.
            packed.extractall(work, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        unpacked = work / archive.name.removesuffix(".tar.gz")
        if not llama_source.change(unpacked):
            say(f"{archive.name} has another source than the changes were made for: prompts of Gemma 4 take longer")
        return unpacked

    def environment(self) -> dict[str, str]:
        """What the build sees: this environment's cmake and ninja, and what to compile with."""
        environment = {**os.environ, "CMAKE_ARGS": self.cmake_args}
        environment["PATH"] = os.pathsep.join(filter(None, (sysconfig.get_path("scripts"), os.environ.get("PATH"))))
        for name in ("CFLAGS", "CXXFLAGS"):
            if flags := " ".join(filter(None, (self.variant.compiler_flags, os.environ.get(name)))):
                environment[name] = flags
        return environment


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
