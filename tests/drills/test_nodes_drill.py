"""Workers of two machines are killed again and again, and their database once: every job is done once, none is lost."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch.queue.jobs import State
from batch.queue.open_store import open_store
from batch.queue.store import Store, StoreAway
from drill_home import chat_draft
from postgres_server import PostgresServer
from running_service import WEIGHTLESS, alive, wait_until
from running_worker import RunningWorker

pytestmark = [pytest.mark.postgres, pytest.mark.drill]

WEIGHTLESS_PATIENT = {**WEIGHTLESS, "BATCH_QUEUE__ATTEMPTS": "100"}
"""A job may be killed by chance more often than it would be set aside for."""
KILLS = int(os.environ.get("DRILL_KILLS", "12"))
JOBS = 120


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.new_database()
    yield url
    postgres_server.empty_database(url)


def states(store: Store, jobs: list[str]) -> dict[str, State]:
    try:
        return store.states(jobs)
    except StoreAway:
        return {}


def test_workers_of_two_machines_are_killed_again_and_again_and_every_job_is_done_once(
    url: str, tmp_path: Path, postgres_server: PostgresServer
) -> None:
    dice = random.Random(14)
    with contextlib.closing(open_store(url)) as store, contextlib.ExitStack() as running:
        drafts = [chat_draft(f"job {n} " + "word " * dice.randrange(30), pause_ms=5) for n in range(JOBS)]
        jobs = [draft.id for draft in drafts]
        store.submit(*drafts, durable=True)
        workers = [RunningWorker(tmp_path / name, "vlm", url, WEIGHTLESS_PATIENT) for name in ("one", "two")]
        for worker in workers:
            running.callback(worker.close)
        for round in range(KILLS):
            wait_until(
                lambda: (
                    any(node.status == "ready" and alive(node.pid) for node in store.nodes())
                    or all(state.ended for state in store.states(jobs).values())
                ),
                "a worker works",
            )
            time.sleep(dice.random() * 0.5)
            if round == KILLS // 2:
                postgres_server.kill()
                time.sleep(dice.random())
                postgres_server.start()
                wait_until(lambda: states(store, jobs), "the database answers")
                continue
            nodes = [node for node in store.nodes() if alive(node.pid)]
            if nodes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(dice.choice(nodes).pid, signal.SIGKILL)
        output = "\n".join(worker.output for worker in workers)
        wait_until(lambda: all(s.ended for s in store.states(jobs).values()), f"all end\n{output}", 150)
        rows = [row for job in jobs if (row := store.job(job))]
        assert [row.state for row in rows] == [State.DONE] * JOBS
        for row, draft in zip(rows, drafts, strict=True):
            said = draft.payload.messages[0].content  # type: ignore[union-attr]
            assert row.result_json is not None and str(said).split()[1] in row.result_json
        assert store.read("select count(*) from claim") == [(0,)] and store.read("select count(*) from task") == [(0,)]
        assert {(state, n) for _, _, _, state, n in store.tally()} == {("done", JOBS)}
