"""Machines whose line to the database is cut without a word: in both directions, in one, and half-open.

Two network namespaces are the machines; they reach the database encrypted and verified, as over a network. DRILL_ROUNDS and
DRILL_SEED in the environment make a longer or another drill than the one in CI.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psycopg
import pytest

from batch.queue.open_store import open_store
from counted_jobs import CountedJobs
from frozen_proxy import frozen_proxy
from network_namespace import Direction, NetworkNamespace, namespaces
from postgres_server import PostgresServer, running_server
from running_service import wait_until
from running_worker import RunningWorker
from worker_machines import WorkerMachines

ROUNDS = int(os.environ.get("DRILL_ROUNDS", "1"))
SEED = int(os.environ.get("DRILL_SEED", "14"))
LEASE_S = 3.0
"""Short, so that rounds are."""
NOTICED_S = 4.0
"""In so long a cut line is noticed: what connections are set to."""

pytestmark = [pytest.mark.postgres, pytest.mark.drill, pytest.mark.timeout(240 + 40 * ROUNDS)]


def cut_from_the_server(url: str, address: str) -> None:
    """The server forgets the connections of a machine that it cannot tell so: half-open they are."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where host(client_addr) = %s", (address,))


def noticed_after_s(worker: RunningWorker, said: int, deadline_s: float) -> float | None:
    """Seconds until a worker says that its database does not answer; None where it does not within so many."""
    begun = time.monotonic()
    while time.monotonic() - begun < deadline_s:
        if any(word in worker.output[said:] for word in ("cannot be reached", "cannot be used", "broke")):
            return time.monotonic() - begun
        time.sleep(0.02)
    return None


def held_by(jobs: CountedJobs, workers: list[str]) -> bool:
    """Whether one of these workers holds a job, as the database says."""
    return any(worker in workers for (worker,) in jobs.store.read("select worker from claim"))


def test_a_machine_that_is_cut_off_computes_on_and_its_late_ends_are_refused_while_another_does_its_jobs(
    tmp_path: Path,
) -> None:
    dice = random.Random(SEED)
    cuts: Counter[str] = Counter()
    noticed_s: list[float] = []
    given_back_s: list[float] = []
    kinds: list[Direction | str] = ["half-open", "to us", "from us", "both"]
    with namespaces(2) as (near, far), contextlib.ExitStack() as running:
        server = running.enter_context(running_server(addresses=(near.address, far.address)))
        url = server.new_database()
        jobs = running.enter_context(CountedJobs(f"{url}&lease={LEASE_S}", seed=SEED, words=120, pause_ms=25))
        store = jobs.store
        lines: dict[str, NetworkNamespace] = {"near": near, "far": far}
        machines: dict[str, WorkerMachines] = {}
        for name, line in lines.items():
            remote = f"{server.remote_url(url, line.address)}&lease={LEASE_S}"
            machines[name] = WorkerMachines(tmp_path, remote, (name,))
            machines[name].prefixes[name] = line.prefix
            running.enter_context(machines[name])
        for round in range(ROUNDS):
            victim = dice.choice(("near", "far"))
            line, worker = lines[victim], machines[victim][victim]
            for name in lines:
                machines[name].wait_until_ready(store, name)
            wait_until(lambda victim=victim: machines[victim].holds(store, victim), "it holds a job", 60)
            cut_off = [node.id for node in machines[victim].nodes(store, victim)]
            kind = kinds[round % len(kinds)]
            said, cut_at = len(worker.output), time.monotonic()
            line.cut("both" if kind == "half-open" else kind)  # type: ignore[arg-type]
            if kind == "half-open":
                cut_from_the_server(url, line.peer)
            seconds = noticed_after_s(worker, said, NOTICED_S * 3)
            assert seconds is not None, f"a cut line ({kind}) was not noticed in time\n{worker.output[said:]}"
            noticed_s.append(seconds)
            wait_until(lambda cut_off=cut_off: not held_by(jobs, cut_off), "its jobs are given back", LEASE_S + 10)
            given_back_s.append(time.monotonic() - cut_at)
            time.sleep(dice.random() * 2)
            line.mend()
            cuts[str(kind)] += 1
            jobs.wait_for_ends(1, 90)
        output = "".join(machine.output for machine in machines.values())
        counts = jobs.finish(output)
        counts["late_words_refused"] = output.count("was given to another worker")
        print(
            f"\ncut off: {dict(cuts)}, {dict(counts)}; noticed after {statistics.median(noticed_s):.1f} s "
            f"(most {max(noticed_s):.1f}), jobs given back after {statistics.median(given_back_s):.1f} s "
            f"(most {max(given_back_s):.1f})"
        )


def test_who_is_cut_off_in_the_middle_of_a_transaction_holds_up_nobody_for_longer_than_the_line_is_silent(
    tmp_path: Path,
) -> None:
    with namespaces(1) as (line,), running_server(addresses=(line.address,)) as server:
        url = server.new_database()
        open_store(url).close()
        program = tmp_path / "hold.py"
        program.write_text(
            "import sys, time\nfrom batch.queue.open_store import open_store\nstore = open_store(sys.argv[1])\n"
            "with store.transaction() as transaction:\n"
            "    transaction.execute(\"insert into pause values ('vlm', 10)\")\n"
            "    print('held', flush=True)\n    time.sleep(60)\n"
        )
        command = [*line.prefix, sys.executable, str(program), server.remote_url(url, line.address)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as holder:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            line.cut("both")
            begun = time.monotonic()
            with contextlib.closing(open_store(url)) as store, store.transaction() as transaction:
                assert transaction.execute("select count(*) from pause").fetchall() == [(0,)]
            waited_s = time.monotonic() - begun
            holder.kill()
        print(f"\nits lock was free after {waited_s:.1f} s")
        assert waited_s < 9, "sooner than a transaction that is only left alone"


def test_a_machine_behind_a_proxy_that_freezes_loses_its_jobs_to_another_and_writes_nothing_when_it_thaws(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    dice = random.Random(SEED)
    freezes: Counter[str] = Counter()
    url = postgres_server.new_database()
    with frozen_proxy(postgres_server) as proxy, contextlib.ExitStack() as running:
        jobs = running.enter_context(CountedJobs(f"{url}&lease={LEASE_S}", seed=SEED, words=120, pause_ms=25))
        near = running.enter_context(WorkerMachines(tmp_path, f"{url}&lease={LEASE_S}", ("near",)))
        far = running.enter_context(WorkerMachines(tmp_path, f"{proxy.url(url)}&lease={LEASE_S}", ("far",)))
        for round in range(ROUNDS):
            near.wait_until_ready(jobs.store)
            far.wait_until_ready(jobs.store)
            wait_until(lambda: far.holds(jobs.store, "far"), "it holds a job", 60)
            cut_off = [node.id for node in far.nodes(jobs.store, "far")]
            directions = (("from",), ("to",), ("to", "from"))[round % 3]
            proxy.freeze(*directions)
            wait_until(lambda cut_off=cut_off: not held_by(jobs, cut_off), "its jobs are given back", LEASE_S + 15)
            time.sleep(dice.random() * dice.choice((1.0, 15.0)))
            proxy.thaw()
            freezes[" and ".join(directions)] += 1
            jobs.wait_for_ends(1, 90)
        counts = jobs.finish(near.output + far.output)
        counts["late_words_refused"] = far.output.count("was given to another worker")
        print(f"\nfrozen: {dict(freezes)}, {dict(counts)}")
    postgres_server.empty_database(url)
