"""Statements through pgbouncer in transaction mode: a whole service and its workers, and what must not stay behind there."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from batch.queue.jobs import Draft, Kind, Origin, Priority, State
from batch.queue.open_store import open_store
from batch.queue.postgres.channel import PostgresChannel
from batch.queue.remote.channel import Receiver
from batch.queue.store import Ending, StoreAway
from counted_jobs import CountedJobs
from payloads import payload
from pooler import Pooler, running_pooler
from postgres_server import PostgresServer
from running_service import RunningService, chat, wait_until
from running_worker import RunningWorker
from streaming_clients import StreamingClients
from worker_machines import WorkerMachines

pytestmark = pytest.mark.postgres

FRONT = {**{f"BATCH_{kind.upper()}__MODEL": "none" for kind in ("vlm", "embedding", "stt")}, "BATCH_QUEUE__ATTEMPTS": "1000"}
ROUNDS = int(os.environ.get("DRILL_ROUNDS", "1"))


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.new_database()
    yield url
    postgres_server.empty_database(url)


@pytest.fixture
def pooler(postgres_server: PostgresServer) -> Iterator[Pooler]:
    with running_pooler(postgres_server) as pooler:
        yield pooler


def test_nothing_that_a_client_sets_listens_to_or_prepares_stays_with_a_connection_that_others_get(
    url: str, postgres_server: PostgresServer
) -> None:
    with running_pooler(postgres_server, connections=1) as pooler:
        with contextlib.closing(open_store(pooler.url(url))) as store:
            for _ in range(8):  # often enough to be prepared, were it allowed
                store.submit(Draft(payload("chat"), Origin.INBOX, Priority.INBOX), durable=True)
                (lease,) = store.take(Kind.VLM, "w1")
                store.renew("w1", [(lease.job.id, lease.token)])
                store.end([Ending(lease, State.DONE, "{}")])
                with store.transaction() as transaction:
                    transaction.execute("select 1")
        for address in (pooler.url(url), pooler.plain_url(url)):  # the second does not say what it is
            channel = PostgresChannel(address, "home", is_front=True)
            with pytest.raises(StoreAway, match="set listen_database to an address that leads to the database itself"):
                channel.open(Receiver(lambda packet: None, lambda queue: None, lambda: None))
        with psycopg.connect(pooler.plain_url(url), autocommit=True, prepare_threshold=None) as other:
            assert other.execute("show synchronous_commit").fetchone() == ("on",)
            assert other.execute("select count(*) from pg_prepared_statements").fetchone() == (0,)
            assert other.execute("select array(select pg_listening_channels())").fetchone() == ([],)
            changed = "select name, setting from pg_settings where source = 'session' and name not in "
            named = "('application_name', 'client_encoding', 'DateStyle', 'TimeZone', 'standard_conforming_strings')"
            assert other.execute((changed + named).encode()).fetchall() == []
            assert other.execute("select count(*) from pg_locks where locktype = 'advisory'").fetchone() == (0,)


def test_a_service_and_its_workers_do_all_work_through_a_pooler_with_few_connections(
    url: str, pooler: Pooler, tmp_path: Path
) -> None:
    pooled, listen = f"{pooler.url(url)}&lease=3", {"BATCH_LISTEN_DATABASE": url}
    (tmp_path / "front").mkdir()
    with contextlib.ExitStack() as running:
        front = running.enter_context(RunningService(tmp_path / "front", {**FRONT, "BATCH_DATABASE": pooled, **listen}))
        jobs = running.enter_context(CountedJobs(pooled, listen_url=url))
        machines = running.enter_context(WorkerMachines(tmp_path, pooled, ("one", "two"), variables=listen))
        front.ready("vlm")
        with StreamingClients(lambda: front) as clients:
            for _ in range(ROUNDS):
                jobs.wait_for_ends(6)
                assert machines.kill_worker(jobs.store, "one")
                jobs.wait_for_ends(6)
                machines.wait_until_ready(jobs.store, "one")
        (front.inbox / "note.txt").write_text("a text by the pooler")
        status, answer = front.call("vlm", "/v1/chat/completions", chat("by the pooler"))
        assert status == 200 and answer["choices"][0]["message"]["content"].split() == ["by", "the", "pooler"]
        listed = json.loads(front.command("nodes", "--json").stdout)
        assert {node["status"] for node in listed} == {"ready"}
        wait_until(lambda: jobs.store.read("select 1 from file"), "the inbox is watched")
        for job in jobs.store.jobs(kind=Kind.EMBEDDING):
            jobs.store.cancel(job.id)
        counts = jobs.finish(machines.output + front.output)
        assert clients.faults == [] and clients.counts["streams_whole"]
        totals = pooler.counts(url)
        assert totals["connections"] <= 4 and totals["transactions"] > counts["accepted"] * 3
        print(f"\n{dict(counts)}, {dict(clients.counts)}, {totals}")


def test_a_front_and_a_worker_that_would_hear_nothing_say_so_and_what_to_set(url: str, pooler: Pooler, tmp_path: Path) -> None:
    open_store(url).close()
    worker = RunningWorker(tmp_path / "worker", "vlm", pooler.url(url))
    try:
        wait_until(lambda: "set listen_database" in worker.output, f"the worker says so\n{worker.output}")
        assert "Traceback" not in worker.output
    finally:
        worker.close()
    (tmp_path / "front").mkdir()
    service = RunningService(tmp_path / "front", {**FRONT, "BATCH_DATABASE": pooler.url(url)})
    with pytest.raises(AssertionError):
        service.start()
    service.close()
    assert "set listen_database to an address that leads to the database itself" in service.output
    assert "Traceback" not in service.output
