"""What `batch doctor` says of a shared database and of its workers: each a sentence that says what to do."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from batch.cli.doctor import command as doctor_command
from batch.cli.doctor.database import check_shared_database, judge_server, judge_workers
from batch.cli.doctor.finding import Finding
from batch.queue.jobs import Draft, Kind, Origin, Priority
from batch.queue.nodes import Node, NodeOverview, QueueNodes
from batch.queue.open_store import open_store
from batch.queue.postgres.inspection.server_state import ServerState, read_server_state
from batch.settings import Settings
from database_roles import granted_roles
from payloads import payload
from pooler import running_pooler
from postgres_server import PostgresServer
from run_batch import RunBatch

SOUND = ServerState(
    version_number=150004,
    version="15.4",
    role="batch",
    is_superuser=False,
    rights="front",
    schema_version=10,
    known_schema_version=10,
    is_encrypted=True,
    is_on_this_machine=False,
    has_fsync=True,
    has_full_page_writes=True,
    has_synchronous_commit=True,
    has_autovacuum=True,
    connections=7,
    max_connections=97,
    is_standby=False,
    hears_notifications=True,
    is_pooled=False,
    clock_difference_s=0.01,
    oldest_transaction_s=2.0,
    oldest_transaction="psql (process 7)",
    hidden_sessions=0,
    late_leases=0,
)


def complaints(state: ServerState) -> dict[str, str]:
    """What is to be mended, by its subject, with how."""
    findings = list(judge_server(state, "postgresql://db/batch"))
    assert all(finding.state and "\n" not in finding.state + finding.remedy for finding in findings)
    return {finding.subject: f"{finding.state}. {finding.remedy}" for finding in findings if finding.remedy}


@pytest.mark.parametrize(
    ("change", "subject", "words"),
    [
        ({"version_number": 120009, "version": "12.9"}, "database", "Upgrade PostgreSQL to 13"),
        ({"is_standby": True}, "database", "target_session_attrs=read-write"),
        ({"schema_version": 11}, "database", "upgrade batch"),
        ({"schema_version": 9}, "database", "`batch database migrate`"),
        ({"is_encrypted": False}, "database line", "sslmode=verify-full"),
        ({"rights": "none"}, "database role", "`batch database grant`"),
        ({"rights": "worker"}, "database role", "for `batch worker`"),
        ({"hears_notifications": False}, "notifications", "Set listen_database"),
        ({"has_fsync": False}, "durability", "fsync is off: what was accepted may be lost with the server's power. Set fsync"),
        ({"has_synchronous_commit": False, "has_fsync": False}, "durability", "fsync and synchronous_commit are off"),
        ({"clock_difference_s": -7.0}, "clocks", "the database's is 7 s behind this machine's. Have both follow"),
        ({"oldest_transaction_s": 3720.0}, "dead rows", "psql (process 7) has a transaction open for 1 h 2 min"),
        ({"has_autovacuum": False}, "dead rows", "Set autovacuum to on"),
        ({"connections": 90}, "database connections", "90 of 97 connections are in use. Raise max_connections"),
        ({"late_leases": 3}, "leases", "3 leases ran out and nobody put the jobs back. Start a front or a worker"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_each_fault_of_a_database_has_its_sentence(change: dict[str, object], subject: str, words: str) -> None:
    assert complaints(SOUND) == {}
    told = complaints(replace(SOUND, **change))  # type: ignore[arg-type]
    assert list(told) == [subject] and words in told[subject]


def test_workers_that_are_missing_in_trouble_or_unlike_are_told() -> None:
    queues = [
        QueueNodes("embedding", {"ready": 2}, builds=2),
        QueueNodes("stt", {}, oldest_wait_s=180.0),
        QueueNodes("vlm", {"silent": 1, "ready": 1}, builds=1),
        QueueNodes("vlm:qwen", {"failed": 1}),
    ]
    broken = Node("n", Kind.VLM, "vlm:qwen", "failed", error="The model cannot be read.")
    told = {finding.subject: finding for finding in judge_workers(NodeOverview([broken], queues), set())}
    assert "2 builds, so that a second attempt may draw other tokens" in told["workers for embedding"].state
    assert "same model file" in told["workers for embedding"].remedy
    assert told["workers for stt"].state == "the oldest job waits 3 min"
    assert told["workers for stt"].remedy == "None is ready: start `batch worker stt` on a machine with its model."
    assert told["workers for vlm"].remedy.startswith("Look after the machines of the silent ones")
    assert told["workers for vlm:qwen"].state == "1 failed (The model cannot be read.)" and told["workers for vlm:qwen"].remedy


def test_a_home_that_computes_by_itself_need_not_have_workers_before_it_runs() -> None:
    (finding,) = judge_workers(NodeOverview([], [QueueNodes("vlm")]), {"vlm"})
    assert finding == Finding("workers for vlm", "none until this home's service runs")


WITHOUT_DRIVER = """
import sys
from pathlib import Path
sys.modules["psycopg"] = None
from batch.cli.doctor.database import check_shared_database
from batch.settings import Settings
for finding in check_shared_database(Settings(home=Path.cwd(), database="postgresql:///batch")):
    print(finding.state, "|", finding.remedy)
from batch.cli.app import main
sys.argv = ["batch", "status"]
main()
"""


def test_a_missing_driver_is_one_sentence_with_its_mend(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_DRIVER]
    (tmp_path / "batch.toml").write_text('database = "postgresql:///batch"\n')
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    for text in (told.stdout, told.stderr):  # doctor's, and what another command says
        assert text.count("\n") == 1 and 'pip install "batch-engine[postgres]"' in text, told


def test_an_address_that_leads_nowhere_is_told_without_its_password(tmp_path: Path) -> None:
    address = "postgresql://batch:secret-word@127.0.0.1:1/batch"
    (finding,) = check_shared_database(Settings(home=tmp_path, database=address))
    assert finding.subject == "database" and finding.remedy and "secret-word" not in finding.state
    (unsafe,) = check_shared_database(Settings(home=tmp_path, database="postgresql://batch@db.example/batch"))
    assert "sslmode=verify-full" in unsafe.state


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.new_database()
    yield url
    postgres_server.empty_database(url)


@pytest.mark.postgres
def test_doctor_looks_at_a_real_database_and_its_workers(
    url: str, home: Path, run_batch: RunBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCH_DATABASE", url)
    monkeypatch.setenv("BATCH_STT__MODEL", "none")
    monkeypatch.setattr(doctor_command, "check_libraries", lambda: [])
    monkeypatch.setattr(doctor_command, "check_memory", lambda settings: Finding("memory", "enough"))
    assert read_server_state(url).rights == "empty"
    with contextlib.closing(open_store(url, home=home)) as store:
        store.register(Node("w1", Kind.VLM, "vlm", "ready", "m", "m, cpu"))
        store.register(Node("w2", Kind.VLM, "vlm", "ready", "m", "m, cuda"))
        store.submit(Draft(payload("chat"), Origin.CLI, Priority.BATCH))
        store.take(Kind.VLM, "w1")
        with store.transaction() as transaction:
            transaction.execute("update claim set until = clock_timestamp() - interval '1 minute'")
    with psycopg.connect(url) as other:
        other.execute("select 1 from job")
        findings = {row["subject"]: row for row in json.loads(run_batch("doctor", "--json").out)}
        state = read_server_state(url)
        assert "(process " in state.oldest_transaction and state.oldest_transaction_s >= 0.0, "of another, not of doctor"
    assert findings["database"]["ok"] and "answers: PostgreSQL" in findings["database"]["state"]
    assert findings["notifications"]["ok"] and findings["database line"]["ok"] and findings["clocks"]["ok"]
    assert findings["durability"]["ok"] and findings["dead rows"]["ok"] and findings["database connections"]["ok"]
    assert findings["database role"]["ok"] and "owns the tables" in findings["database role"]["state"]
    assert findings["leases"]["state"] == "1 lease ran out and nobody put the jobs back"
    assert "2 ready, 2 builds" in findings["workers for vlm"]["state"] and not findings["workers for vlm"]["ok"]
    assert findings["workers for stt"]["remedy"].startswith("None is ready: start `batch worker stt`")
    assert findings["workers for embedding"]["ok"], "this home's service computes it"


@pytest.mark.postgres
def test_what_a_role_may_do_is_told_of_each_role(postgres_server: PostgresServer) -> None:
    roles = granted_roles(postgres_server)
    rights = {name: read_server_state(getattr(roles, name)).rights for name in ("owner", "front", "worker")}
    assert rights == {"owner": "owner", "front": "front", "worker": "worker"}


@pytest.mark.postgres
def test_a_pooler_that_lets_no_notification_through_is_found_out(
    url: str, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch.queue.postgres.inspection.server_state._HEARING_TIMEOUT_S", 0.3)
    with running_pooler(postgres_server) as pooler:
        told, untold = read_server_state(pooler.url(url)), read_server_state(pooler.plain_url(url))
        assert not told.hears_notifications and told.is_pooled
        assert not untold.hears_notifications and not untold.is_pooled
        assert read_server_state(pooler.url(url), listen_url=url).hears_notifications
