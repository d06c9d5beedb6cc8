"""llama-server as a peer to compare with: found, or built from the source that the llama-cpp-python sdist vendors.

    python bench/llama_server.py          builds it once into the user's cache and prints its path

BATCH_LLAMA_SERVER names a binary to use instead. The build needs a C++ compiler, cmake and the package registry, and
takes five to ten minutes on two cores.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from peer import Peer, Source, free_port, running

# No web page, no TLS, nothing fetched while building; the rest as everybody builds it.
SOURCE = Source(
    program="llama-server",
    variable="BATCH_LLAMA_SERVER",
    package="llama-cpp-python",
    folder="llama_cpp_python-*/vendor/llama.cpp",
    script="llama_server.py",
    flags=(
        "-DLLAMA_BUILD_SERVER=ON",
        "-DLLAMA_BUILD_TESTS=OFF",
        "-DLLAMA_BUILD_EXAMPLES=OFF",
        "-DLLAMA_BUILD_UI=OFF",
        "-DLLAMA_USE_PREBUILT_UI=OFF",
        "-DLLAMA_OPENSSL=OFF",
    ),
)
MISSING = SOURCE.missing
binary = SOURCE.binary


@contextlib.contextmanager
def llama(
    server: Path,
    model: Path,
    *options: str,
    name: str = "llama-server",
    kind: str = "vlm",
    threads: int = 0,
    slots: int = 1,
) -> Iterator[Peer]:
    """Run it with this many slots (0: its default) and threads (0: its default); otherwise its defaults."""
    port = free_port()
    command = [str(server), "-m", str(model), "--host", "127.0.0.1", "--port", str(port)]
    command += ["-np", str(slots)] if slots else []
    command += ["-t", str(threads), "-tb", str(threads)] if threads else []
    with running([*command, *options], port) as pid:
        yield Peer(name, {kind: port}, [pid])


@contextlib.contextmanager
def serving(server: Path, model: Path, *options: str, threads: int = 1) -> Iterator[str]:
    """Its address, with one slot and everything that can be asked of it."""
    with llama(server, model, "--metrics", "--slots", "--jinja", *options, threads=threads) as peer:
        yield f"http://127.0.0.1:{peer.ports['vlm']}"


def gemma4_template(template: str, folder: Path) -> list[str]:
    """Options that make it read the tiny model's answers as Gemma 4's: it knows them by these words in a template, and
    the tiny model's template has no tools, and so not the words."""
    path = folder / "template.jinja"
    path.write_text("{#- '<|tool_call>call:' -#}\n" + template)
    return ["--chat-template-file", str(path)]


if __name__ == "__main__":
    print(binary() or SOURCE.build())
