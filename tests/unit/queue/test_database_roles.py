"""What the roles of fronts and workers may do in the database, and what they may not."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from batch.errors import SettingsProblem
from batch.queue.jobs import Draft, JobProgress, Kind, Origin, Priority, State
from batch.queue.nodes import Node, WorkerSecret
from batch.queue.open_store import open_spool, open_store
from batch.queue.sqlite.schema import OlderDatabase
from batch.queue.store import Ending, Lease, LeaseLost
from database_roles import RoleAddresses, StoreOfRoles, prepare_roles, secret_of
from paths import ROOT
from payloads import payload
from postgres_server import PostgresServer

WORKERS_CODE = [*(ROOT / "batch" / "workers").rglob("*.py"), ROOT / "batch" / "queue" / "huey_storage.py"]


def draft(*blobs: str) -> Draft:
    return Draft(payload("chat"), Origin.INBOX, Priority.INBOX, blobs)


@pytest.fixture
def store(roles: RoleAddresses) -> Iterator[StoreOfRoles]:
    store = StoreOfRoles(roles)
    yield store
    store.close()


def may(url: str, statement: str) -> bool:
    """Whether a role may carry out a statement; nothing of it is kept."""
    with psycopg.connect(url) as conn:
        try:
            conn.execute(statement.encode())
        except psycopg.errors.InsufficientPrivilege:
            return False
        finally:
            conn.rollback()
    return True


TABLES = ("job", "task", "claim", "blob", "checkpoint", "payload", "node", "frame", "response", "item", "file", "lease_root")


@pytest.mark.postgres
def test_a_workers_role_has_no_rights_on_tables(roles: RoleAddresses) -> None:
    statements = [f"{verb} {table}" for table in TABLES for verb in ("select 1 from", "delete from", "truncate")]
    assert [statement for statement in statements if may(roles.worker, statement)] == []


BESIDE_FUNCTIONS = [
    "update job set state = 'done'",
    "insert into task (queue, job, priority) values ('vlm', 'x', 20)",
    "select nextval('token')",
    "create table mine (a integer)",
    "select take_jobs('vlm', 'w', -1, 1, null, null, 30)",
    "select lease_jobs('vlm', 'w', -1, 1, null, null, 30, 0)",
    "select end_job('x', 1, 'done', '{}', null)",
    "select cancel_job('x')",
    "select lease_key('x', 1, 'w')",
    "select grant_rights()",
    "select reap_leases(1, 1, 0, 'x')",
    "insert into granted_role values ('me', 'front')",
]


@pytest.mark.postgres
def test_a_workers_role_does_nothing_beside_its_functions(roles: RoleAddresses, store: StoreOfRoles) -> None:
    store.submit(draft())
    assert [statement for statement in BESIDE_FUNCTIONS if may(roles.worker, statement)] == []


CHANGES_OF_TABLES = [
    "create table mine (a integer)",
    "alter table job add column mine integer",
    "drop table item",
    "truncate job",
    "create trigger mine before insert on job for each row execute function job_changed()",
    "update batch_schema set version = 0",
    "insert into granted_role values ('me', 'front')",
    "update lease_root set one = 1",
    "create or replace function worker_leave(secret text) returns void language sql as 'select 1'",
]


@pytest.mark.postgres
def test_a_fronts_role_changes_rows_and_no_table(roles: RoleAddresses) -> None:
    assert [statement for statement in CHANGES_OF_TABLES if may(roles.front, statement)] == []
    assert may(roles.front, "delete from job") and may(roles.front, "select tally.n from tally")


@pytest.mark.postgres
def test_every_function_of_workers_runs_for_its_owner_in_a_fixed_schema_and_is_nobody_elses(roles: RoleAddresses) -> None:
    with psycopg.connect(roles.owner) as conn:
        rows = conn.execute(
            "select proname, prosecdef, proconfig, array(select grantee::regrole::text from aclexplode(proacl)) from pg_proc "
            "where pronamespace = 'public'::regnamespace and (proname like 'worker%' or prosecdef)"
        ).fetchall()
    assert len(rows) > 15 and all(name.startswith("worker_") for name, *_ in rows)
    owner = re.sub("_front$", "_owner", roles.front_role)
    for name, is_definer, settings, grantees in rows:
        assert (is_definer, settings) == (True, ["search_path=public, pg_temp"]), name
        assert set(grantees) == {owner, roles.front_role, roles.worker_role}, name


def test_every_call_of_the_store_in_a_worker_has_a_function_that_its_role_may_call() -> None:
    pytest.importorskip("psycopg")
    from batch.queue.postgres.roles.worker_store import WorkerStore

    calls = {name for file in WORKERS_CODE for name in re.findall(r"\b_?store\.([a-z_]+)", file.read_text("utf-8"))}
    assert {"take", "end", "renew", "checkpoint"} <= calls
    without_statement = {"is_shared", "close", "submitted", "front", "home", "lease_s"}
    allowed = set(vars(WorkerStore)) | without_statement | {"take"}  # `take` is the base's, by `_taking`
    assert calls - allowed - {"queue_size"} == set(), "give it a function in roles/worker_functions.sql"


@pytest.mark.postgres
def test_a_worker_can_do_nothing_for_a_lease_of_another(store: StoreOfRoles) -> None:
    store.submit(one := draft())
    (lease,) = store.take(Kind.VLM, "w1")
    store.checkpoint(lease, 0, '{"secret":1}')
    thief = store.worker("w2")
    assert thief.end([Ending(lease, State.DONE, '{"text":"forged"}')]) == [False]
    thief.put_back(lease, count=True)
    thief.progress(lease, JobProgress(99.0))
    assert thief.checkpoints(lease) == []
    for write in (lambda: thief.checkpoint(lease, 1, "{}"), lambda: thief.refer(lease, "ab" * 32)):
        with pytest.raises(LeaseLost):
            write()
    renewal = thief.renew("w2", [(one.id, lease.token)])
    assert renewal.lost == {one.id}
    guess = Lease(lease.job, lease.token + 1)
    assert store.worker("w1").end([Ending(guess, State.DONE, "{}")]) == [False], "and its own under its own token alone"
    row = store.job(one.id)
    assert row is not None and (row.state, row.progress) == (State.RUNNING, None)
    assert store.end([Ending(lease, State.DONE, '{"text":"true"}')]) == [True]


@pytest.mark.postgres
def test_a_worker_can_neither_take_over_nor_remove_another_whose_id_it_knows(store: StoreOfRoles) -> None:
    store.submit(one := draft())
    store.register(Node("w1", Kind.VLM, Kind.VLM, "ready"))
    store.take(Kind.VLM, "w1")
    thief = store.worker("w2")
    (node,) = store._front.nodes()
    thief.leave(node.id)
    thief.register(Node(node.id, Kind.STT, Kind.STT, "failed"))
    nodes = {one.id: one for one in store._front.nodes()}
    assert nodes[node.id].status == "ready" and nodes[node.id].kind == Kind.VLM and len(nodes) == 2
    with contextlib.closing(open_store(store._roles.worker, worker=thief._secret)) as other:  # type: ignore[attr-defined]
        assert other.recover(Kind.VLM, "w2", 1, predecessor=node.id) == []
    assert store.states([one.id]) == {one.id: State.RUNNING}


@pytest.fixture(params=["postgres", "s3"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where payloads go."""
    if request.param == "postgres":
        return "postgres"
    for name, value in request.getfixturevalue("s3_server").variables.items():
        monkeypatch.setenv(name, value)
    return f"s3://payloads/{secrets.token_hex(4)}"


@pytest.mark.postgres
def test_a_worker_reads_the_payloads_of_its_own_jobs_and_writes_while_it_holds_one(
    roles: RoleAddresses, place: str, tmp_path: Path
) -> None:
    def folder(name: str) -> Path:
        (tmp_path / name / ".batch").mkdir(parents=True)
        return tmp_path / name / ".batch" / "spool"

    secret = WorkerSecret(secret_of("w1"))
    spools = [open_spool(roles.front, folder("front"), place)]
    spools += [open_spool(roles.worker, folder(name), place, worker_secret=secret_of(name)) for name in ("w1", "w2")]
    front, holder, other = spools[:3]
    store = open_store(roles.front, home=tmp_path / "front")
    worker = open_store(roles.worker, home=tmp_path / "w1", worker=secret)
    try:
        data = b"what is in it is nobody's business" * 100_000
        sha256 = front.keep(data)
        store.submit(draft(sha256))
        with psycopg.connect(roles.owner) as conn:  # as if it had waited for long
            for table in ("payload", "payload_object"):
                conn.execute(f"update {table} set created_at = created_at - interval '1 hour'".encode())
        (lease,) = worker.take(Kind.VLM, secret.id)
        assert not other.path(sha256).exists()
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            other.keep(data[:-1])
        assert holder.read(sha256) == data
        for text in (b"result", data[1:]):
            result = holder.keep(text)
            worker.refer(lease, result)
            assert front.read(result) == text
        worker.end([Ending(lease, State.DONE, "{}")])
        spools.append(open_spool(roles.worker, folder("again"), worker_secret=secret_of("w1")))
        assert not spools[-1].path(sha256).exists(), "its lease is over"
    finally:
        for one in (*spools, store, worker):
            one.close()


NOT_VALID = [
    "worker_take('vlm', 'short', -1, 1, null, null, 30, 0)",
    "worker_take('vlm', repeat('s', 32), -1, 1000000, null, null, 30, 0)",
    "worker_take('vlm', repeat('s', 32), -1, 1, null, null, 1e9, 0)",
    "worker_end(repeat('s', 32), '{j}', '{1}', '{queued}', '{null}', '{null}')",
    "worker_write_payload(repeat('s', 32), '../../etc', 0, '')",
    "worker_send_frame('a', decode(repeat('00', 17000000), 'hex'))",
    "worker_reap(0, 1, 0, 600, '')",
]


@pytest.mark.postgres
def test_what_a_worker_gives_a_function_is_checked(roles: RoleAddresses) -> None:
    for call in NOT_VALID:
        with psycopg.connect(roles.worker) as conn, pytest.raises(psycopg.errors.InvalidParameterValue):
            conn.execute(f"select {call}".encode())


@pytest.mark.postgres
def test_rights_are_given_by_one_command_as_often_as_one_likes_and_by_every_migration(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from batch.queue.postgres import schema
    from batch.queue.postgres.roles import grants

    roles = prepare_roles(postgres_server)
    for address in (roles.front, roles.worker):
        with pytest.raises(OlderDatabase, match="its owner must run `batch database migrate`"):
            open_store(address)
    made = grants.grant(roles.owner, "", roles.worker_role)
    database = made.front.removesuffix("_front")
    assert made.created == (f"{database}_front",) and made.worker == roles.worker_role
    assert grants.grant(roles.owner, roles.front_role, roles.worker_role).created == ()
    assert grants.grant(roles.owner, roles.front_role, roles.worker_role).created == ()
    open_store(roles.front).close()

    # As if a version had come since, with a table and a function of its own.
    with psycopg.connect(roles.owner) as conn:
        conn.execute("create table later (a integer); create function worker_later() returns int language sql as 'select 1'")
        conn.execute("delete from batch_schema where version = (select max(version) from batch_schema)")
    with pytest.raises(OlderDatabase, match="may not change it"):
        open_store(roles.front)
    script = tmp_path / "nothing.sql"
    script.write_text("select 1")
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS[:-1], str(script)))
    assert grants.migrate(roles.owner) == schema.VERSION
    assert may(roles.worker, "select worker_later()") and not may(roles.worker, "select * from later")
    assert may(roles.front, "select * from later")
    open_store(roles.front).close()


@pytest.mark.postgres
def test_an_owner_that_may_make_no_roles_is_told_what_an_administrator_must_run(postgres_server: PostgresServer) -> None:
    from batch.queue.postgres.roles import grants

    roles = prepare_roles(postgres_server, create_roles=False)
    with pytest.raises(SettingsProblem, match=r'create role "not here" nologin'):
        grants.grant(roles.owner, "not here", roles.worker_role)
    with psycopg.connect(roles.owner) as conn:
        assert conn.execute("select count(*) from granted_role").fetchone() == (0,), "all or nothing"


@pytest.mark.postgres
def test_one_role_for_everything_does_as_a_worker_too(database: Any) -> None:
    if isinstance(database, Path):
        pytest.skip("a file has no roles")
    store = StoreOfRoles(RoleAddresses(database, database, database, "", ""))
    store.submit(draft())
    (lease,) = store.take(Kind.VLM, "w1")
    assert lease.key and store.end([Ending(lease, State.DONE, "{}")]) == [True]
    store.close()
