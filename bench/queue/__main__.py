"""What the queue costs: at a million jobs against a thousand, and a request's way through it against huey's polling.

    python bench/queue [--jobs N] [--rounds N] [--json]

Nothing here needs a model. What counts are the ratios, as both sides run in the same minutes. Steps of a job and commands
are measured in CPU time, because what else the machine does must not decide; on a quiet machine it is the clock's.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from batch.cli.exit_status import ExitStatus
from batch.payloads.chat import ChatPayload, Message
from batch.queue.jobs import Draft, Kind, Origin, Priority, State
from batch.queue.messages import message_for
from batch.queue.open_store import open_store
from batch.queue.store import Ending, Store

KINDS = [str(kind) for kind in Kind]
BARS = {
    "submit, many/1,000": 1.5,
    "take, many/1,000": 1.5,
    "end, many/1,000": 1.5,
    "status, CPU seconds": 0.5,
    "jobs, CPU seconds": 0.5,
    "status, many/1,000": 1.5,
    "jobs, many/1,000": 1.5,
    "hop / huey's, at once": 1.0,
    "hop / huey's, after 3 s": 0.1,
}


def fill(home: Path, count: int) -> float:
    """A home with this many queued inbox jobs; returns the seconds that took, in one transaction."""
    begun = time.perf_counter()
    store = open_store(home / ".batch" / "batch.db")
    request = '{"messages":[{"role":"user","content":"hello"}]}'
    first = time.time_ns() // 1_000_000 - 10 * count
    ids = [f"{first + number:012x}{number:08x}" for number in range(count)]
    with store.transaction() as transaction:
        # Counters a job would double the time; they are written once below.
        triggers = transaction.execute("select name, sql from sqlite_master where type='trigger' and tbl_name='job'").fetchall()
        for name, _ in triggers:
            transaction.execute(f"drop trigger {name}")
        transaction.execute_many(
            "insert into task (id, queue, data, priority) values (?,?,?,0.0)",
            ((number + 1, KINDS[number % 3], message_for(id)) for number, id in enumerate(ids)),
        )
        transaction.execute_many(
            "insert into job (id, kind, task, state, origin, priority, request, message, created_at) "
            "values (?,?,'chat','queued','inbox',0,?,?,?)",
            ((id, KINDS[number % 3], request, number + 1, time.time()) for number, id in enumerate(ids)),
        )
        for number, kind in enumerate(KINDS):
            transaction.execute("insert into tally values (?,'inbox',0,'queued',?)", (kind, len(range(number, count, 3))))
        for _, sql in triggers:
            transaction.execute(sql)
    store.close()
    return time.perf_counter() - begun


def costs(store: Store, count: int = 300) -> dict[str, float]:
    """Milliseconds of CPU of each step of a caller's job, over the jobs that wait already."""
    hello = ChatPayload(messages=[Message(role="user", content="hello")])
    drafts = [Draft(hello, Origin.HTTP, Priority.INTERACTIVE, waited=True) for _ in range(count)]
    marks = [time.process_time()]
    for draft in drafts:
        store.submit(draft)
    marks.append(time.process_time())
    taken = [lease for _ in drafts for lease in store.take(Kind.VLM, "w1")]
    marks.append(time.process_time())
    for lease in taken:
        store.end([Ending(lease, State.DONE, "{}")])
    marks.append(time.process_time())
    return {name: 1000 * (marks[at + 1] - marks[at]) / count for at, name in enumerate(("submit", "take", "end"))}


def command(home: Path, *words: str) -> float:
    """Seconds of CPU of one `batch …` in a home whose service does not run."""
    begun = _children()
    line = [sys.executable, "-m", "batch", *words, "--home", str(home)]
    ended = subprocess.run(line, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[2])
    if ended.returncode not in (ExitStatus.DONE, ExitStatus.SERVICE_DOWN):
        raise subprocess.CalledProcessError(ended.returncode, line)
    return _children() - begun


def interpreter() -> float:
    begun = _children()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return _children() - begun


def _children() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


@contextlib.contextmanager
def service(home: Path) -> Iterator[int]:
    """A running service with the engines without weights; gives the port of embeddings."""
    variables = {f"BATCH_{kind.upper()}__MODEL": "weightless" for kind in KINDS}
    variables |= {f"BATCH_{kind.upper()}__PORT": "0" for kind in KINDS}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("BATCH_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "batch", "serve", "--home", str(home)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**kept, **variables},
    )
    assert process.stdout is not None
    try:
        line = next(line for line in process.stdout if line.startswith("batch is up"))
        found = re.search(r"embedding http://127\.0\.0\.1:(\d+)", line)
        assert found
        yield int(found[1])
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


def hop(port: int) -> Callable[[], None]:
    """A request of one text: HTTP in, a job row, the worker's process and back."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def call() -> None:
        connection.request("POST", "/v1/embeddings", '{"input":"hello","model":"any"}', {"Content-Type": "application/json"})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise SystemExit(f"the service answered {answer.status}: {body[:200]!r}")

    return call


def ready(port: int) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError), contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as probe:
            probe.request("GET", "/health")
            if probe.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise SystemExit("the service did not become ready")


_HUEY = """
import hashlib, sys
from huey import SqliteHuey
huey = SqliteHuey("peer", filename=sys.argv[1])
@huey.task(name="embed")
def embed(text): return [b / 255 for b in hashlib.sha256(text.encode()).digest()[:8]]
if len(sys.argv) > 2:
    consumer = huey.create_consumer(workers=1)
    print("up", flush=True)
    consumer.run()
"""


@contextlib.contextmanager
def plain_huey(folder: Path) -> Iterator[Callable[[], None]]:
    """The same job through huey as it comes: SqliteHuey, its consumer with one worker, its polling on both sides."""
    script = folder / "plain_huey.py"
    script.write_text(_HUEY)
    database = str(folder / "huey.db")
    consumer = subprocess.Popen(
        [sys.executable, str(script), database, "consume"], stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
    )
    assert consumer.stdout is not None
    sys.argv = [str(script), database]
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(_HUEY, str(script), "exec"), names)
    try:
        consumer.stdout.readline()

        def call() -> None:
            names["embed"]("hello")(blocking=True, timeout=60)

        yield call
    finally:
        consumer.terminate()
        consumer.wait(30)
        consumer.stdout.close()


def timed(call: Callable[[], None], idle: float) -> float:
    """Milliseconds of one call after an idle spell of so many seconds."""
    time.sleep(idle)
    begun = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - begun)


def measure(jobs: int, rounds: int) -> dict[str, float]:
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        homes = {1000: folder / "few", jobs: folder / "many"}
        for count, home in homes.items():
            home.mkdir()
            figures[f"filling {count:,}, seconds"] = fill(home, count)
        stores = {count: open_store(home / ".batch" / "batch.db") for count, home in homes.items()}
        found: dict[tuple[int, str], list[float]] = {}
        for _ in range(rounds):
            for count, store in stores.items():
                for name, cost in costs(store).items():
                    found.setdefault((count, name), []).append(cost)
        for store in stores.values():
            store.close()
        for name in ("submit", "take", "end"):
            few, many = (statistics.median(found[count, name]) for count in homes)
            figures |= {f"{name}, CPU ms": many, f"{name}, many/1,000": many / few}
        start = statistics.median(interpreter() for _ in range(rounds))
        figures["python starts, CPU seconds"] = start
        for words in (
            ["status"],
            ["jobs"],
            ["jobs", "--state", "queued", "--origin", "inbox"],
            ["jobs", "--origin", "http"],
        ):
            taken = {count: statistics.median(command(home, *words) for _ in range(rounds)) for count, home in homes.items()}
            name = " ".join(words)
            figures |= {f"{name}, CPU seconds": taken[jobs], f"{name}, many/1,000": taken[jobs] / taken[1000]}
            figures[f"{name}, starts of python"] = taken[jobs] / start
        home = folder / "service"
        home.mkdir()
        with service(home) as port, plain_huey(folder) as theirs:
            ready(port)
            ours = hop(port)
            for _ in range(50):
                ours()
            for label, idle, times in (("at once", 0.0, 20 * rounds), ("after 3 s", 3.0, rounds)):
                pairs = [(timed(ours, idle), timed(theirs, idle)) for _ in range(times)]
                mine, other = (statistics.median(column) for column in zip(*pairs, strict=True))
                figures |= {
                    f"hop, {label}, ms": mine,
                    f"huey's, {label}, ms": other,
                    f"hop / huey's, {label}": mine / other,
                }
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=1_000_000, help="how many jobs are many")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    figures = measure(given.jobs, given.rounds)
    missed = [name for name, bar in BARS.items() if figures[name] > bar]
    if given.json:
        print(json.dumps({"figures": figures, "bars": BARS, "missed": missed}, indent=1))
    else:
        for name, figure in figures.items():
            bar = f"  at most {BARS[name]:g}{'  MISSED' if name in missed else ''}" if name in BARS else ""
            print(f"{name:52} {figure:10.3f}{bar}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
