"""Embeddings against llama-server, alternating in one run: latency, one call of many texts, many callers.

    BATCH_LLAMA_SERVER=/path/to/llama-server python bench/embeddings.py [--model FILE] [--rounds N] [--threads N]
                                                                        [--full] [--json]

Both serve the same GGUF, each with the threads it chooses or with `--threads`. llama-server runs with one slot and with
its default number; the better of the two counts. `--full` adds 10,000 texts: as one call to each, and as inbox files
for ours.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from batch.settings import default_models_dir

WORDS = [
    "river", "stone", "market", "engine", "winter", "garden", "letter", "music", "doctor", "bridge", "window",
    "harvest", "planet", "silver", "forest", "teacher", "captain", "coffee", "history", "mountain", "signal", "library",
    "summer", "village", "morning", "paper",
]  # fmt: skip
BARS = {"single": 1.2, "call of 64": 1.2, "32 callers": 1.2}


def text(i: int) -> str:
    """A short sentence, another for every number."""
    pick = [WORDS[(i * step + step) % len(WORDS)] for step in (1, 3, 7, 11)]
    return f"The {pick[0]} by the {pick[1]} has a {pick[2]} and {i} {pick[3]}s"


class Client:
    """One keep-alive connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3600)
        self._connection.connect()
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def embed(self, given: str | list[str]) -> int:
        body = json.dumps({"input": given, "model": "m"})
        self._connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise SystemExit(f"port {self._connection.port} answered {answer.status}: {data[:300]!r}")
        return len(data)


def single(port: int, start: int, count: int = 40) -> float:
    """Median seconds of one short text after another."""
    client = Client(port)
    times = []
    for i in range(count):
        begun = time.perf_counter()
        client.embed(text(start + i))
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def one_call(port: int, start: int, count: int = 64) -> float:
    """Texts a second of one call."""
    client = Client(port)
    begun = time.perf_counter()
    client.embed([text(start + i) for i in range(count)])
    return count / (time.perf_counter() - begun)


def many_callers(port: int, start: int, callers: int = 32, calls: int = 10) -> float:
    """Texts a second of callers that each ask one text after another."""
    ready = threading.Barrier(callers + 1)

    def caller(number: int) -> None:
        client = Client(port)
        ready.wait()
        for i in range(calls):
            client.embed(text(start + number * calls + i))

    with ThreadPoolExecutor(callers) as pool:
        asked = [pool.submit(caller, n) for n in range(callers)]
        ready.wait()
        begun = time.perf_counter()
        for one in asked:
            one.result()
        return callers * calls / (time.perf_counter() - begun)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def wait_for_health(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise SystemExit(f"the server on port {port} did not come up; its log ends: {log.read_text()[-1500:]}")


@contextlib.contextmanager
def running(command: list[str], port: int, folder: Path, **environment: str) -> Iterator[int]:
    log = folder / f"{port}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **environment})
        try:
            wait_for_health(port, process, log)
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


@contextlib.contextmanager
def ours(model: Path, folder: Path, threads: int) -> Iterator[int]:
    """The whole service, as users run it, with engines without weights on the other two ports."""
    port = free_port()
    command = [sys.executable, "-c", "from batch.cli.app import main; main()", "serve", "--home", str(folder / "home"),
               "--vlm-port", "0", "--stt-port", "0", "--embedding-port", str(port)]  # fmt: skip
    (folder / "home").mkdir()
    with running(command, port, folder, BATCH_VLM__MODEL="weightless", BATCH_STT__MODEL="weightless",
                 BATCH_EMBEDDING__MODEL=str(model), BATCH_EMBEDDING__THREADS=str(threads)):  # fmt: skip
        yield port


@contextlib.contextmanager
def llama_server(binary: str, model: Path, folder: Path, *more: str) -> Iterator[int]:
    port = free_port()
    command = [binary, "-m", str(model), "--embeddings", "--host", "127.0.0.1", "--port", str(port), *more]
    with running(command, port, folder):
        yield port


def inbox(home: Path, count: int) -> float:
    """Texts a second of files dropped into the inbox, from the first file to the last result."""
    begun = time.perf_counter()
    for i in range(count):
        (home / "inbox" / f"{i}.txt").write_text(text(i))
    end = time.monotonic() + 3600
    while len(list((home / "outbox").glob("*.json"))) < count:
        if time.monotonic() > end:
            raise SystemExit("the inbox was not done within an hour")
        time.sleep(0.2)
    return count / (time.perf_counter() - begun)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=default_models_dir() / "all-MiniLM-L6-v2-f16.gguf")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="for both; 0: what each chooses")
    parser.add_argument("--full", action="store_true", help="add 10,000 texts")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    binary = os.environ.get("BATCH_LLAMA_SERVER", "")
    if not binary:
        print("BATCH_LLAMA_SERVER names no llama-server, so only ours is measured.", file=sys.stderr)
    measures: dict[str, Callable[[int, int], float]] = {
        "single": single, "call of 64": one_call, "32 callers": many_callers,
    }  # fmt: skip
    seen: dict[str, dict[str, list[float]]] = {name: {} for name in measures}
    extra: dict[str, float] = {}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        servers = {"ours": stack.enter_context(ours(options.model, folder, options.threads))}
        threads = ["-t", str(options.threads)] if options.threads else []
        if binary:
            servers["llama-server, one slot"] = stack.enter_context(
                llama_server(binary, options.model, folder, "-np", "1", *threads))  # fmt: skip
            servers["llama-server, default"] = stack.enter_context(
                llama_server(binary, options.model, folder, *threads))  # fmt: skip
        for port in servers.values():
            Client(port).embed([text(i) for i in range(8)])
        start = 0
        for _ in range(options.rounds):
            for measure, run in measures.items():
                for server, port in servers.items():
                    start += 1000
                    seen[measure].setdefault(server, []).append(run(port, start))
        if options.full:
            for server, port in servers.items():
                if server != "llama-server, default":
                    extra[f"10,000 texts in one call: {server}"] = one_call(port, 0, 10_000)
            extra["10,000 inbox files: ours"] = inbox(folder / "home", 10_000)
    report = {
        "cores": os.cpu_count(), "threads": options.threads or "own", "load before": round(load, 2),
        "model": options.model.name, "rounds": options.rounds,
        "medians": {m: {s: round(statistics.median(v), 5) for s, v in by.items()} for m, by in seen.items()},
        **{name: round(rate, 1) for name, rate in extra.items()},
    }  # fmt: skip
    ratios = {}
    for measure, by in report["medians"].items():
        theirs = [value for server, value in by.items() if server != "ours"]
        if theirs:
            best = min(theirs) if measure == "single" else max(theirs)
            ratios[measure] = round(by["ours"] / best, 3)
    report["ratios"] = ratios
    met = {m: r <= BARS[m] if m == "single" else r >= BARS[m] for m, r in ratios.items()}
    report["met"] = met
    if options.json:
        print(json.dumps(report, indent=1))
    else:
        show(report)
    return 0 if all(met.values()) else 1


def show(report: dict[str, object]) -> None:
    medians, ratios, met = report["medians"], report["ratios"], report["met"]
    assert isinstance(medians, dict) and isinstance(ratios, dict) and isinstance(met, dict)
    print(f"{report['model']}, {report['cores']} cores, load before {report['load before']}")
    for measure, by in medians.items():
        for server, value in by.items():
            figure = f"{value * 1000:8.2f} ms" if measure == "single" else f"{value:8.1f} texts/s"
            print(f"  {measure:12} {server:24} {figure}")
        if measure in ratios:
            sign = "at most" if measure == "single" else "at least"
            print(f"  {measure:12} ours / theirs {ratios[measure]} ({sign} {BARS[measure]}: "
                  f"{'met' if met[measure] else 'missed'})")  # fmt: skip
    for name, value in report.items():
        if re.match(r"10,000", name):
            print(f"  {name}: {value} texts/s")


if __name__ == "__main__":
    sys.exit(main())
