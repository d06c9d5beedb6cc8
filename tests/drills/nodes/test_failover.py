"""The database's primary is killed and its standby promoted under a front, workers and clients that know both by one address.

DRILL_ROUNDS and DRILL_SEED in the environment make a longer or another drill than the one in CI.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import time
from pathlib import Path

import pytest

from counted_jobs import CountedJobs
from postgres_server import PostgresServer, running_server
from running_service import RunningService, chat
from streaming_clients import StreamingClients
from worker_machines import WorkerMachines

ROUNDS = int(os.environ.get("DRILL_ROUNDS", "1"))
SEED = int(os.environ.get("DRILL_SEED", "14"))
FRONT = {**{f"BATCH_{kind.upper()}__MODEL": "none" for kind in ("vlm", "embedding", "stt")}, "BATCH_QUEUE__ATTEMPTS": "1000"}
BUSY = {"waiting": 30, "words": 3, "pause_ms": 2}
"""Short jobs, so that a fault meets takes, ends and submits under way."""

pytestmark = [pytest.mark.postgres, pytest.mark.drill, pytest.mark.timeout(240 + 60 * ROUNDS)]


def test_a_standby_takes_over_under_a_front_workers_and_streams_and_every_durable_job_ends_once(tmp_path: Path) -> None:
    dice = random.Random(SEED)
    seconds: list[float] = []
    with running_server() as primary, contextlib.ExitStack() as running:
        name = primary.new_database().partition("@/")[2].partition("?")[0]
        standby = primary.standby()
        running.callback(standby.close)
        standby.start()
        primary.commit_on_standby(True)
        pair: tuple[PostgresServer, PostgresServer] = (primary, standby)
        hosts = f"host={primary.folder},{standby.folder}&target_session_attrs=read-write"
        url = f"postgresql://{primary.user}@/{name}?{hosts}&lease=3"
        (tmp_path / "front").mkdir()
        front = running.enter_context(RunningService(tmp_path / "front", {**FRONT, "BATCH_DATABASE": url}))
        jobs = running.enter_context(CountedJobs(url, seed=SEED, **BUSY))
        machines = running.enter_context(WorkerMachines(tmp_path, url, ("one", "two")))
        front.ready("vlm")
        with StreamingClients(lambda: front) as clients:
            for _ in range(ROUNDS):
                old, new = pair
                jobs.wait_for_ends(dice.randrange(1, 8), 90)
                time.sleep(dice.random())
                old.kill()
                killed_at = time.monotonic()
                time.sleep(dice.random() * dice.choice((0.0, 2.0)))
                new.promote()
                jobs.wait_for_ends(1, 90)
                seconds.append(time.monotonic() - killed_at)
                old.follow(new)
                new.commit_on_standby(True)
                pair = new, old
            jobs.wait_for_ends(2, 90)
        status, answer = front.call("vlm", "/v1/chat/completions", chat("after all"))
        assert status == 200 and answer["choices"][0]["message"]["content"].split() == ["after", "all"]
        counts = jobs.finish(machines.output + front.output)
        print(
            f"\n{ROUNDS} failovers: {dict(counts)}, {dict(clients.counts)}; the next job ended "
            f"{statistics.median(seconds):.1f} s after the kill (most {max(seconds):.1f})"
        )
        assert clients.faults == []
