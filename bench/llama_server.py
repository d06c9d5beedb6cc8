"""llama-server as a peer to compare with: found, or built from the source that the llama-cpp-python sdist vendors.

    python bench/llama_server.py          builds it once into the user's cache and prints its path

BATCH_LLAMA_SERVER names a binary to use instead. The build needs a C++ compiler, cmake and the package registry, and
takes five to ten minutes on two cores.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "batch" / "peers"
VARIABLE = "BATCH_LLAMA_SERVER"
MISSING = f"no llama-server: set {VARIABLE} to one, or build it with `python bench/llama_server.py`"
FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_BUILD_SERVER=ON", "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_OPENSSL=OFF",
)  # fmt: skip
"""No web page, no TLS, nothing fetched while building; the rest as everybody builds it."""


def pin() -> tuple[str, str]:
    """Version and sha256 of the llama-cpp-python sdist in the lock file: the peer has the engine that ours has."""
    text = (ROOT / "requirements.lock").read_text()
    found = re.search(r"^llama-cpp-python==(\S+)[^\n]*\n\s+--hash=(sha256:\w+)", text, re.MULTILINE)
    assert found, "requirements.lock pins no llama-cpp-python"
    return found[1], found[2]


def binary() -> Path | None:
    """The binary, if there is one already."""
    if named := os.environ.get(VARIABLE):
        if not Path(named).is_file():
            raise SystemExit(f"{VARIABLE} names {named}, which is not there.")
        return Path(named)
    built = CACHE / f"llama-server-{pin()[0]}"
    return built if built.is_file() else None


def build(jobs: int = os.cpu_count() or 1) -> Path:
    """Fetch the sdist through pip (its hash checked), build the one target, keep the binary."""
    version, sha256 = pin()
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        folder = Path(scratch)
        (folder / "pin.txt").write_text(f"llama-cpp-python=={version} --hash={sha256}\n")
        _run(sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-python",
             "--require-hashes", "--dest", str(folder), "-r", str(folder / "pin.txt"))  # fmt: skip
        (archive,) = folder.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        (source,) = folder.glob("llama_cpp_python-*/vendor/llama.cpp")
        made = folder / "build"
        _run("cmake", "-S", str(source), "-B", str(made), *FLAGS)
        _run("cmake", "--build", str(made), "--target", "llama-server", "-j", str(jobs))
        kept = CACHE / f"llama-server-{version}"
        shutil.copy2(made / "bin" / "llama-server", kept.with_suffix(".part"))
        os.replace(kept.with_suffix(".part"), kept)
    return kept


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr)


@contextlib.contextmanager
def serving(server: Path, model: Path, *options: str, threads: int = 1, wait: float = 60.0) -> Iterator[str]:
    """Run it with one slot on a free port of this machine; gives its address once it is healthy."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(server), "-m", str(model), "--host", "127.0.0.1", "--port", str(port), "-np", "1",
               "-t", str(threads), "-tb", str(threads), "--metrics", "--slots", "--jinja", *options]  # fmt: skip
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + wait
            while not _healthy(address):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    last = log.read()[-2000:].decode("utf-8", "replace")
                    raise RuntimeError(f"llama-server did not come up:\n{last}")
                time.sleep(0.05)
            yield address
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    print(binary() or build())
