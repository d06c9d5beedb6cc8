"""Large batches: what the service's memory does, how long the file takes, and what interactive requests see of it.

    python bench/batches.py [--only lines|file|messages|beside] [--lines 50000] [--megabytes 200] [--beside 2000] [--json]

The engine without weights answers, so that what is measured is the service: reading and checking the file, jobs, results. One
batch has many short lines, another has few long ones that add up to the largest file; Anthropic's create has all of that in one
body, and what other callers wait meanwhile is measured too. Peak memory is that of the service's own
process. Throughput is compared with the same lines sent straight to the port, one after another, each answered before the next
is sent; an interactive request's first token is measured with nothing else to do and beside a batch. `bench/real_batches.py`
compares batches of real models with the same requests sent straight to the engine.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from measure import Report, finish, machine, options

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from running_service import WEIGHTLESS, RunningService

CHAT = "/v1/chat/completions"
BAR_MEMORY_BYTES = 300 << 20
BAR_THROUGHPUT = 0.95
BAR_FIRST_TOKEN_MS = 50.0
"""How much later than with nothing else to do an interactive request's answer may begin."""
STRAIGHT_LINES = 500
SAMPLES = 15
LONG_LINE_BYTES = 1 << 20
DEADLINE_S = 3600.0


def short_line(number: int) -> dict[str, Any]:
    """A request of a few words."""
    body = {"messages": [{"role": "user", "content": f"line {number} says a few words"}]}
    return {"custom_id": f"n{number}", "method": "POST", "url": CHAT, "body": body}


def write_lines(path: Path, count: int, padding: int = 0) -> Path:
    """A file of so many requests, each with a system prompt of `padding` bytes besides."""
    with path.open("wb") as file:
        for number in range(count):
            line = short_line(number)
            if padding:
                line["body"]["messages"].insert(0, {"role": "system", "content": f"{number} " + "x" * padding})
            file.write(json.dumps(line).encode() + b"\n")
    return path


class PeakMemory:
    """The largest resident size of a process while the block runs, in bytes."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.bytes = 0

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            lines = self._status.read_text().splitlines()
            self.bytes = max(self.bytes, *(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:")))


def submit(service: RunningService, path: Path) -> str:
    """Upload a file as a stream, as clients do, and make a batch of it; the batch's id."""
    boundary = "batch-bench"
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{path.name}"\r\n\r\n'
    ).encode()
    tail = f"\r\n--{boundary}--\r\n".encode()

    def pieces() -> Iterator[bytes]:
        yield head
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                yield piece
        yield tail

    headers = {
        "Content-Type": f"multipart/form-data; boundary={boundary}",
        "Content-Length": str(len(head) + path.stat().st_size + len(tail)),
    }
    request = urllib.request.Request(service.url("vlm", "/v1/files"), pieces(), headers)  # type: ignore[arg-type]
    with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
        file = json.loads(answer.read())
    body = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
    status, batch = service.call("vlm", "/v1/batches", body)
    assert status == 200, batch
    return str(batch["id"])


def wait_for_end(service: RunningService, id: str) -> dict[str, Any]:
    """The batch once it has ended well."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        _, batch = service.get("vlm", f"/v1/batches/{id}")
        if batch["status"] in ("completed", "failed", "cancelled", "expired"):
            if batch["status"] != "completed" or batch["request_counts"]["failed"]:
                raise SystemExit(f"the batch is {batch['status']}: {batch['request_counts']}, {batch['errors']}")
            return dict(batch)
        time.sleep(0.1)
    raise SystemExit("the batch did not end")


def run_batch(service: RunningService, path: Path) -> tuple[float, int]:
    """Seconds that a batch took from its creation to its end, and the service's peak memory in bytes."""
    assert service.process is not None
    with PeakMemory(service.process.pid) as peak:
        id = submit(service, path)
        started = time.perf_counter()
        wait_for_end(service, id)
        return time.perf_counter() - started, peak.bytes


def first_token_ms(service: RunningService) -> float:
    """Milliseconds until an interactive answer begins, the median of some."""
    body = {"messages": [{"role": "user", "content": "hello"}], "stream": True}
    times = []
    for _ in range(SAMPLES):
        started = time.perf_counter()
        request = urllib.request.Request(
            service.url("vlm", CHAT), json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read(1)
            times.append((time.perf_counter() - started) * 1e3)
            answer.read()
    return statistics.median(times)


def straight_rate(service: RunningService, count: int) -> float:
    """Lines a second when each is sent to the port and answered before the next."""
    started = time.perf_counter()
    for number in range(count):
        status, _ = service.call("vlm", CHAT, short_line(number)["body"])
        assert status == 200
    return count / (time.perf_counter() - started)


def bench(only: str, lines: int, megabytes: int, beside: int) -> Report:
    """Every figure once, each of a service that has done nothing before."""
    report = Report("large batches, the engine without weights", machine(1, 1))
    parts: dict[str, Callable[[RunningService, Path], None]] = {
        "lines": lambda service, work: measure_lines(report, service, work, lines),
        "file": lambda service, work: measure_file(report, service, work, megabytes),
        "messages": lambda service, work: measure_messages(report, service, work, megabytes),
        "beside": lambda service, work: measure_beside(report, service, work, beside),
    }
    for name, measure in parts.items():
        if only in name:
            with (
                tempfile.TemporaryDirectory() as home,
                tempfile.TemporaryDirectory() as work,
                RunningService(Path(home), WEIGHTLESS) as service,
            ):
                measure(service.ready(), Path(work))
    return report


def note(report: Report, sentence: str, good: bool) -> None:
    """Tell a figure at once, so that a run that is cut off has told what it knew."""
    report.say(sentence, good)
    print(sentence, file=sys.stderr, flush=True)


def measure_lines(report: Report, service: RunningService, work: Path, lines: int) -> None:
    """A batch of many short lines; files lie in `work`."""
    straight = straight_rate(service, min(lines, STRAIGHT_LINES))
    seconds, peak = run_batch(service, write_lines(work / "short.jsonl", lines))
    rate = lines / seconds
    note(report, f"{lines} lines: {seconds:.1f} s, peak memory of the service {peak >> 20} MiB", peak <= BAR_MEMORY_BYTES)
    note(
        report,
        f"lines a second: {rate:.0f} as a batch, {straight:.0f} one after another: {rate / straight:.2f} "
        f"(bar {BAR_THROUGHPUT})",
        rate >= BAR_THROUGHPUT * straight,
    )


def measure_file(report: Report, service: RunningService, work: Path, megabytes: int) -> None:
    """A batch of few long lines."""
    count = megabytes * (1 << 20) // LONG_LINE_BYTES
    path = write_lines(work / "long.jsonl", count, LONG_LINE_BYTES - 300)
    seconds, peak = run_batch(service, path)
    size = path.stat().st_size >> 20
    note(report, f"a file of {size} MiB: {seconds:.1f} s, peak memory {peak >> 20} MiB", peak <= BAR_MEMORY_BYTES)


def measure_messages(report: Report, service: RunningService, work: Path, megabytes: int) -> None:
    """Anthropic's create of a batch that large, in requests of 16 KiB, and how long a caller waits for /health meanwhile."""
    assert service.process is not None
    text = "x" * (16 << 10)

    def pieces() -> Iterator[bytes]:
        yield b'{"requests": ['
        for number in range(megabytes * 64 - 8):
            params = {"max_tokens": 1, "system": f"{number} {text}", "messages": [{"role": "user", "content": "hello"}]}
            yield b"," * (number > 0) + json.dumps({"custom_id": f"n{number}", "params": params}).encode()
        yield b"]}"

    waits: list[float] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(0.05):
            started = time.perf_counter()
            service.get("vlm", "/health")
            waits.append((time.perf_counter() - started) * 1e3)

    asking = threading.Thread(target=ask)
    asking.start()
    with PeakMemory(service.process.pid) as peak:
        started = time.perf_counter()
        request = urllib.request.Request(
            service.url("vlm", "/v1/messages/batches"),
            pieces(),
            {"Content-Type": "application/json"},  # type: ignore[arg-type]
        )
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            batch = json.loads(answer.read())
        seconds = time.perf_counter() - started
    ended.set()
    asking.join()
    service.call("vlm", f"/v1/messages/batches/{batch['id']}/cancel", {})
    note(
        report,
        f"a create of {megabytes} MB, {batch['request_counts']['processing']} requests: {seconds:.1f} s, peak memory "
        f"{peak.bytes >> 20} MiB",
        peak.bytes <= BAR_MEMORY_BYTES,
    )
    worst, median = max(waits), statistics.median(waits)
    note(report, f"/health meanwhile: median {median:.1f} ms, worst {worst:.1f}", median <= BAR_FIRST_TOKEN_MS)


def measure_beside(report: Report, service: RunningService, work: Path, beside: int) -> None:
    """An interactive request with nothing else to do, and beside a batch."""
    idle = first_token_ms(service)
    id = submit(service, write_lines(work / "beside.jsonl", beside))
    busy = first_token_ms(service)
    _, batch = service.get("vlm", f"/v1/batches/{id}")
    if batch["status"] == "completed":
        raise SystemExit("the batch ended before requests beside it were measured: give it more --beside")
    wait_for_end(service, id)
    note(
        report,
        f"first token beside a batch: {busy:.1f} ms, idle {idle:.1f} (at most {BAR_FIRST_TOKEN_MS:.0f} ms later)",
        busy <= idle + BAR_FIRST_TOKEN_MS,
    )


def main() -> int:
    parser = options(__doc__ or "", rounds=1)
    parser.add_argument("--lines", type=int, default=50_000)
    parser.add_argument("--megabytes", type=int, default=200, help="size of the file of long lines")
    parser.add_argument("--beside", type=int, default=2000, help="lines of the batch that requests are measured beside")
    given = parser.parse_args()
    return finish([bench(given.only, given.lines, given.megabytes, given.beside)], given.json)


if __name__ == "__main__":
    sys.exit(main())
