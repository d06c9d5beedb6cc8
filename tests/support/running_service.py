"""A real `batch serve` process in a home of its own, started and stopped by tests."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

KINDS = ("vlm", "embedding", "stt")

WEIGHTLESS = {f"BATCH_{kind.upper()}__MODEL": "weightless" for kind in KINDS}
"""Settings for the engine without weights, which tests the path in milliseconds."""

STARTER = {
    "BATCH_PROFILE": "starter",
    **{f"BATCH_{kind.upper()}__THREADS": "1" for kind in KINDS},
    "OMP_WAIT_POLICY": "passive",
}
"""The small real models, one thread each, so that test processes beside one another do not spin."""


def chat(text: str, *, pause_ms: int = 0) -> dict[str, Any]:
    """A chat for the engine without weights: it says `text` again, a word each `pause_ms`."""
    return {"model": "any", "messages": [{"role": "user", "content": text}], "seed": pause_ms}


def wait_until(what: Callable[[], Any], message: str, seconds: float = 60.0) -> Any:
    """Poll until `what` gives something true; returns that. Fails with `message` at the deadline."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:.0f} s: {message}")


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended between the two looks
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


class RunningService:
    """Ports, process and home of one running service."""

    prefix: tuple[str, ...] = ()
    """A command that runs the service in its place, say in a namespace of its own."""

    def __init__(self, home: Path, variables: Mapping[str, str]) -> None:
        self.home = home
        self.inbox = home / "inbox"
        self.outbox = home / "outbox"
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("BATCH_")},
            "BATCH_HOME": str(home),
            "BATCH_FOLDER__SETTLE": "0.2",
            "BATCH_FOLDER__SCAN": "1",
            **variables,
        }
        self.ports: dict[str, int] = {}
        self.output = ""
        self.process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def __enter__(self) -> RunningService:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> RunningService:
        ports = [word for kind in KINDS for word in (f"--{kind}-port", "0")]
        self.process = subprocess.Popen(
            [*self.prefix, sys.executable, "-m", "batch", "serve", *ports],
            env=self._environment,
            cwd=self.home,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.output, self.ports = "", {}
        self._reader = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        self._reader.start()
        wait_until(lambda: self.ports or self.process is None or self.process.poll() is not None, self.output or "up")
        assert self.ports, f"the service did not start:\n{self.output}"
        return self

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.output += line
            if line.startswith("batch is up"):
                self.ports = {k: int(p) for k, p in re.findall(r"(\w+) http://127\.0\.0\.1:(\d+)", line)}
        process.stdout.close()

    def url(self, kind: str, path: str = "") -> str:
        return f"http://127.0.0.1:{self.ports[kind]}{path}"

    def ready(self, *kinds: str, seconds: float = 120.0) -> RunningService:
        """Wait until these models (all by default) are in."""
        for kind in kinds or KINDS:
            wait_until(lambda kind=kind: self.health(kind)[0] == 200, f"{kind} ready\n{self.output}", seconds)
        return self

    def health(self, kind: str) -> tuple[int, Any]:
        return self.get(kind, "/health")

    def get(self, kind: str, path: str) -> tuple[int, Any]:
        return self.call(kind, path, None)

    def call(
        self, kind: str, path: str, body: Any, *, headers: Mapping[str, str] | None = None, timeout: float = 60.0
    ) -> tuple[int, Any]:
        """POST a JSON body (GET when None); returns the status and the decoded answer."""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url(kind, path), data, {"Content-Type": "application/json", **(headers or {})})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, _decode(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _decode(error.read())

    def command(self, *arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run `batch …` in this home."""
        return subprocess.run(
            [sys.executable, "-m", "batch", *arguments],
            env=self._environment,
            cwd=self.home,
            text=True,
            capture_output=True,
            timeout=timeout,
        )

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin `batch …` in this home."""
        return subprocess.Popen(
            [sys.executable, "-m", "batch", *arguments],
            env=self._environment,
            cwd=self.home,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def worker_pid(self, kind: str) -> int:
        """Pid of the worker process that serves a kind now."""

        def known() -> Any:  # the database learns of a worker a moment after its port does
            return json.loads(self.command("status", "--json").stdout)["models"][kind]["pid"]

        return int(wait_until(known, f"the pid of the {kind} worker"))

    def states(self, kind: str, count: int = 1) -> list[str]:
        """States of the newest jobs of a kind, the newest first; without a command, which takes a busy machine a second."""
        with contextlib.closing(sqlite3.connect(self.home / ".batch" / "batch.db", timeout=30)) as database:
            rows = database.execute("select state from job where kind=? order by id desc limit ?", (kind, count)).fetchall()
        return [str(row[0]) for row in rows]

    def stop(self, seconds: float = 30.0) -> int:
        """SIGTERM, as systemd does; returns the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(seconds)
        self._read_to_the_end()
        return status

    def kill(self) -> None:
        """SIGKILL the service itself, as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)
        self._read_to_the_end()

    def _read_to_the_end(self) -> None:
        """Its last words are in `output` once this returns; a worker that outlives it for a moment holds the pipe open."""
        if self._reader is not None:
            self._reader.join(10)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(10)
        self._read_to_the_end()


def _decode(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode("utf-8", "replace")
