"""Workers, their agents, whole machines and the database are killed or frozen again and again: every job ends once.

DRILL_ROUNDS and DRILL_SEED in the environment make a longer or another drill than the one in CI.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch.queue.open_store import open_store
from counted_jobs import CountedJobs
from postgres_server import PostgresServer
from running_service import RunningService, wait_until
from streaming_clients import StreamingClients
from worker_machines import WorkerMachines

ROUNDS = int(os.environ.get("DRILL_ROUNDS", "4"))
SEED = int(os.environ.get("DRILL_SEED", "14"))
LEASE_S = 2.0
"""Short, so that rounds are."""
FRONT = {**{f"BATCH_{kind.upper()}__MODEL": "none" for kind in ("vlm", "embedding", "stt")}, "BATCH_QUEUE__ATTEMPTS": "1000"}
BUSY = {"waiting": 30, "words": 3, "pause_ms": 2}
"""Short jobs, so that a fault meets takes, ends and submits under way."""

pytestmark = [pytest.mark.postgres, pytest.mark.drill, pytest.mark.timeout(240 + 40 * ROUNDS)]


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.new_database()
    yield f"{url}&lease={LEASE_S}"
    postgres_server.empty_database(url)


def test_whatever_of_two_machines_is_killed_or_frozen_every_job_ends_once_and_no_word_comes_twice(
    url: str, tmp_path: Path
) -> None:
    dice = random.Random(SEED)
    faults: Counter[str] = Counter()
    with contextlib.ExitStack() as running:
        (tmp_path / "front").mkdir()
        open_store(url).close()
        front = running.enter_context(RunningService(tmp_path / "front", {**FRONT, "BATCH_DATABASE": url}))
        jobs = running.enter_context(CountedJobs(url, seed=SEED))
        machines = running.enter_context(WorkerMachines(tmp_path, url, ("one", "two")))
        front.ready("vlm")
        clients = running.enter_context(StreamingClients(lambda: front, count=1, words=80, pause_ms=25))
        store = jobs.store
        for _ in range(ROUNDS):
            jobs.wait_for_ends(dice.randrange(1, 4), 90)
            victim = dice.choice(("one", "two"))
            fault = dice.choice(("worker", "worker", "agent", "machine", "freeze", "freeze"))
            machines.wait_until_ready(store, victim)
            with contextlib.suppress(AssertionError):  # the other may do all the work
                wait_until(lambda victim=victim: machines.holds(store, victim), "it holds a job", 1.0)
            match fault:
                case "worker":
                    machines.kill_worker(store, victim)
                case "agent":
                    machines[victim].process.kill()
                    machines[victim].process.wait(30)
                    machines.start(victim)
                case "machine":
                    machines[victim].signal_all(signal.SIGKILL)
                    machines.start(victim)
                case "freeze":
                    machines[victim].signal_all(signal.SIGSTOP)
                    time.sleep(LEASE_S + 0.5 + dice.random() * 2)
                    machines[victim].signal_all(signal.SIGCONT)
            faults[fault] += 1
        clients.end()
        counts = jobs.finish(machines.output + front.output)
        counts["late_words_refused"] = machines.output.count("was given to another worker")
        print(f"\nkilled or frozen: {dict(faults)}, {dict(counts)}, {dict(clients.counts)}")
        assert sum(faults.values()) == ROUNDS and clients.faults == []


def test_the_database_is_killed_under_submits_workers_and_streams_and_nothing_is_lost_or_said_twice(tmp_path: Path) -> None:
    from postgres_server import running_server

    dice = random.Random(SEED)
    rounds = max(1, ROUNDS // 2)
    with running_server() as server, contextlib.ExitStack() as running:
        url = f"{server.new_database()}&lease={LEASE_S}"
        open_store(url).close()
        (tmp_path / "front").mkdir()
        front = running.enter_context(RunningService(tmp_path / "front", {**FRONT, "BATCH_DATABASE": url}))
        jobs = running.enter_context(CountedJobs(url, seed=SEED, **BUSY))
        machines = running.enter_context(WorkerMachines(tmp_path, url, ("one", "two", "three")))
        front.ready("vlm")
        clients = running.enter_context(StreamingClients(lambda: front))
        for _ in range(rounds):
            jobs.wait_for_ends(dice.randrange(1, 6), 90)
            time.sleep(dice.random())
            server.kill()
            time.sleep(dice.random() * dice.choice((0.2, 2.0)))
            server.start()
        jobs.wait_for_ends(1, 90)
        clients.end()
        counts = jobs.finish(machines.output + front.output)
        print(f"\nthe database killed {rounds} times: {dict(counts)}, {dict(clients.counts)}")
        assert clients.faults == []
        assert clients.counts["streams_whole"]
