"""What the queue costs in PostgreSQL: at a million jobs against a thousand, with many workers, and beside plain PostgresHuey.

    python bench/scale.py [--jobs N] [--seconds S] [--rounds N] [--only PART] [--flush-ms MS] [--json]

Nothing here needs a model but the part real_workers, which runs by its name only. It starts a server of its own, with fsync, in
a temporary folder. What counts are the ratios, as both sides run in the same minutes on the same disk. `--flush-ms 3.5` makes
its disk as slow as the one that the bars were set on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
sys.path.insert(0, str(Path(__file__).parents[1]))

import psycopg
from real_workers import measure_real_workers

from batch.payloads.chat import ChatPayload, Message
from batch.queue.jobs import Draft, Kind, Origin, Priority, State
from batch.queue.open_store import open_store
from batch.queue.store import Ending, Store
from postgres_server import running_server

BARS = {
    "take, many/1,000": ("most", 2.0),
    "waited round trip, ms": ("most", 5.0),
    "round trip / PostgresHuey's": ("most", 1.0),
    "8 durable workers / 1": ("least", 3.0),
    "durable submits with wake-ups / without": ("least", 0.6),
}
_WAKE_INTERVAL_S = 0.02
"""Wake-ups of a queue are gathered for so long."""


def draft(priority: Priority = Priority.BATCH, *, waited: bool = False) -> Draft:
    payload = ChatPayload(messages=[Message(role="user", content="hello")])
    return Draft(payload, Origin.HTTP if waited else Origin.BATCH, priority, waited=waited)


def fill(url: str, count: int, kind: str = "vlm") -> None:
    """This many queued jobs, in one transaction, with their counters."""
    open_store(url).close()
    with psycopg.connect(url) as conn:
        conn.execute("alter table job disable trigger user")
        conn.execute(
            "insert into task (queue, job, priority) select %s, lpad(to_hex(n), 12, '0') || 'ffffffff', 0 "
            "from generate_series(1, %s) as n",
            (kind, count),
        )
        conn.execute(
            "insert into job (id, kind, task, state, origin, priority, request, message, created_at) "
            "select job, queue, 'chat', 'queued', 'inbox', 0, '{\"messages\":[]}', id, unix_now() from task"
        )
        conn.execute("insert into tally_folded values (%s, 'inbox', 0, 'queued', %s)", (kind, count))
        conn.execute("alter table job enable trigger user")
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("vacuum analyze")


def empty(url: str) -> None:
    """Nothing in the database at all."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("drop schema public cascade; create schema public")


def take_ms(store: Store) -> float:
    """Milliseconds that one take costs; its job is ended afterwards."""
    begun = time.perf_counter()
    (lease,) = store.take(Kind.VLM, "w1")
    took = time.perf_counter() - begun
    store.end([Ending(lease, State.DONE, "{}")])
    return took * 1000


def measure_takes(urls: tuple[str, str], jobs: int, rounds: int) -> dict[str, float]:
    """The same step where a thousand wait, and where many do, in turn."""
    stores = []
    for url, count in zip(urls, (1000, jobs), strict=True):
        fill(url, count)
        stores.append(open_store(url))
    times: list[list[float]] = [[], []]
    for number in range(rounds + 20):
        for store, figures in zip(stores, times, strict=True):
            took = take_ms(store)
            if number >= 20:  # statements are prepared, pages are warm
                figures.append(took)
    for store in stores:
        store.close()
    few, many = map(statistics.median, times)
    return {"take at 1,000, ms": few, f"take at {jobs:,}, ms": many, "take, many/1,000": many / few}


def measure_round_trip(url: str, rounds: int) -> dict[str, float]:
    """Submit, wake, take, end, tell: a caller's job through the database and back, with a worker in a thread."""
    store, worker_store = open_store(url), open_store(url)
    stop = threading.Event()

    def work() -> None:
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("listen wake")
            ready.set()
            while not stop.is_set():
                for _ in conn.notifies(timeout=0.2, stop_after=1):
                    pass
                while leases := worker_store.take(Kind.VLM, "w1"):
                    worker_store.end([Ending(leases[0], State.DONE, '{"text":"hello"}')])
                    conn.execute("select pg_notify('ended', %s)", (leases[0].job.id,))

    ready = threading.Event()
    worker = threading.Thread(target=work)
    worker.start()
    ready.wait()
    times: list[float] = []
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("listen ended")
        for number in range(rounds + 20):
            job = draft(Priority.INTERACTIVE, waited=True)
            begun = time.perf_counter()
            store.submit(job)
            conn.execute("select pg_notify('wake', '')")
            for notify in conn.notifies(timeout=10):
                if notify.payload == job.id:
                    break
            if number >= 20:
                times.append((time.perf_counter() - begun) * 1000)
    stop.set()
    worker.join()
    store.close()
    worker_store.close()
    return {
        "waited round trip, ms": statistics.median(times),
        "waited round trip p95, ms": sorted(times)[len(times) * 95 // 100],
    }


def measure_huey(url: str, rounds: int) -> dict[str, float]:
    """The same through huey's own storage: pickles, a delete that takes, a result that is looked for."""
    from huey import PostgresHuey
    from huey.consumer import Consumer

    class Quiet(Consumer):  # type: ignore[misc]
        def _set_signal_handlers(self) -> None:
            pass

    huey = PostgresHuey("bench", dsn=url)

    def echo(text: str) -> str:
        return text

    task = huey.task()(echo)
    consumer = Quiet(huey, workers=1, worker_type="thread", periodic=False, check_worker_health=False)
    consumer.start()
    times: list[float] = []
    for number in range(rounds + 5):
        begun = time.perf_counter()
        task("hello").get(blocking=True, timeout=30)
        if number >= 5:
            times.append((time.perf_counter() - begun) * 1000)
    consumer.stop(graceful=True)
    return {"PostgresHuey's round trip, ms": statistics.median(times)}


def worker_process(url: str, worker: str, seconds: float, barrier: Barrier, counts: multiprocessing.Queue[int]) -> None:
    """Take and end, durably, for so long."""
    store = open_store(url)
    barrier.wait()
    until, count = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        leases = store.take(Kind.VLM, worker)
        count += sum(store.end([Ending(lease, State.DONE, '{"text":"hello"}') for lease in leases], durable=True))
    counts.put(count)
    store.close()


def submit_process(url: str, wakes: bool, seconds: float, barrier: Barrier, counts: multiprocessing.Queue[int]) -> None:
    """Submit durably for so long; after a commit the queue's workers are woken, gathered, on a connection of its own."""
    store = open_store(url)
    stop, submitted = threading.Event(), threading.Event()

    def wake() -> None:
        with psycopg.connect(url, autocommit=True) as conn:
            while not stop.is_set():
                if submitted.wait(0.1):
                    submitted.clear()
                    conn.execute("begin; set local synchronous_commit = off; select pg_notify('wake', 'vlm'); commit")
                    stop.wait(_WAKE_INTERVAL_S)

    waker = threading.Thread(target=wake)
    if wakes:
        store.submitted = lambda kinds: submitted.set()
        waker.start()
    barrier.wait()
    until, count = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        store.submit(draft(), durable=True)
        count += 1
    stop.set()
    if wakes:
        waker.join()
    counts.put(count)
    store.close()


def together(target: object, url: str, arguments: list[tuple[object, ...]], seconds: float) -> float:
    """What processes beside one another get done in a second, all of them."""
    context = multiprocessing.get_context("spawn")
    barrier, counts = context.Barrier(len(arguments)), context.Queue()
    processes = [
        context.Process(target=target, args=(url, *mine, seconds, barrier, counts))  # type: ignore[arg-type]
        for mine in arguments
    ]
    for process in processes:
        process.start()
    total = sum(counts.get(timeout=seconds + 120) for _ in processes)
    for process in processes:
        process.join()
    return total / seconds


def measure_workers(url: str, seconds: float) -> dict[str, float]:
    """One worker, and eight, that write every end to the disk."""
    rates = {}
    for count in (1, 8):
        empty(url)
        fill(url, 40_000)
        rates[count] = together(worker_process, url, [(f"w{number}",) for number in range(count)], seconds)
    return {
        "durable jobs/s of 1 worker": rates[1],
        "durable jobs/s of 8 workers": rates[8],
        "8 durable workers / 1": rates[8] / rates[1],
    }


def measure_submits(url: str, seconds: float) -> dict[str, float]:
    """Eight who submit durably, with and without wake-ups."""
    rates = {}
    for wakes in (False, True):
        empty(url)
        open_store(url).close()
        rates[wakes] = together(submit_process, url, [(wakes,)] * 8, seconds)
    return {
        "durable submits/s": rates[False],
        "durable submits/s with wake-ups": rates[True],
        "durable submits with wake-ups / without": rates[True] / rates[False],
    }


def slow_disk(folder: Path, flush_ms: float) -> dict[str, str]:
    """The environment in which each flush takes so much longer (slow_flush.c); needs a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise SystemExit("--flush-ms needs a C compiler, and there is none: install one, or leave the option out.")
    library = folder / "slow_flush.so"
    source = Path(__file__).with_name("slow_flush.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True, timeout=60)
    folder.chmod(0o755)  # the server's user reads it
    return {"LD_PRELOAD": str(library), "SLOW_FLUSH_US": str(round(flush_ms * 1000))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1_000_000, help="how many wait in the full queue")
    parser.add_argument("--seconds", type=float, default=5.0, help="that many processes are measured beside one another")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--only", default="", help="takes, round_trip, huey, workers, submits or real_workers")
    parser.add_argument(
        "--flush-ms", type=float, default=0.0, help="how much longer a flush of the disk takes than it does here"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    with (
        tempfile.TemporaryDirectory(prefix="slow-disk-", dir="/tmp") as folder,
        running_server(slow_disk(Path(folder), options.flush_ms) if options.flush_ms else None) as server,
    ):
        first, second = server.new_database(), server.new_database()
        parts = {
            "takes": lambda: measure_takes((first, second), options.jobs, options.rounds),
            "round_trip": lambda: measure_round_trip(first, options.rounds),
            "huey": lambda: measure_huey(second, options.rounds // 4),
            "workers": lambda: measure_workers(first, options.seconds),
            "submits": lambda: measure_submits(first, options.seconds),
            "real_workers": lambda: measure_real_workers(first, options.rounds // 4),
        }
        for name, measure in parts.items():
            if options.only == name or (not options.only and name != "real_workers"):
                if name != "takes":
                    empty(first)
                    open_store(first).close()
                figures |= measure()
    if "waited round trip, ms" in figures and "PostgresHuey's round trip, ms" in figures:
        figures["round trip / PostgresHuey's"] = figures["waited round trip, ms"] / figures["PostgresHuey's round trip, ms"]
    missed = [name for name, (sense, bar) in BARS.items() if name in figures and (figures[name] > bar) == (sense == "most")]
    if options.json:
        print(json.dumps({"figures": figures, "missed": missed}, indent=1))
    else:
        for name, figure in figures.items():
            bar = f"   at {BARS[name][0]} {BARS[name][1]}{' MISSED' if name in missed else ''}" if name in BARS else ""
            print(f"{name:42} {figure:10.2f}{bar}")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
