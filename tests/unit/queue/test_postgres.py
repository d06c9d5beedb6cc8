"""What only the store in PostgreSQL has to hold: addresses, broken connections, a server that is killed, counters in parts."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from batch.conversations.completion_store import CompletionStore, StoredCompletion
from batch.database_address import has_password, without_password
from batch.errors import DiskFull, SettingsProblem
from batch.queue.jobs import Draft, Kind, Origin, Priority, State
from batch.queue.nodes import LEASE_S
from batch.queue.open_store import open_store
from batch.queue.postgres.connection_info import check_address, lease_of
from batch.queue.postgres.error_mapping import to_batch_error
from batch.queue.postgres.portable_sql import to_parameters, to_psycopg
from batch.queue.postgres.postgres_store import PostgresStore
from batch.queue.postgres.schema import VERSION
from batch.queue.selection.job_filter import JobFilter
from batch.queue.sqlite.schema import NewerDatabase
from batch.queue.store import Ending, StoreAway
from payloads import payload
from postgres_server import PostgresServer, running_server


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.new_database()
    yield url
    postgres_server.empty_database(url)


def draft(priority: Priority = Priority.INBOX) -> Draft:
    return Draft(payload("chat"), Origin.INBOX, priority)


def cut_all(url: str) -> None:
    """End every connection to a database but this one."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://user@/name?host=/run/postgresql",
        "postgresql://user:secret@localhost/name",
        "postgresql://user@127.0.0.1:5433/name",
        "postgresql://user@[::1]/name",
        "postgresql://user@db.example.org/name?sslmode=verify-full&sslrootcert=system",
    ],
)
def test_this_machine_and_verified_machines_may_hold_jobs(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGSSLMODE", raising=False)
    check_address(address)


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://user:secret@db.example.org/name",
        "postgresql://user:secret@db.example.org/name?sslmode=require",
        "postgresql://user:secret@localhost,10.0.0.2/name",
        "postgresql://user:secret@db.example.org:many/name",
    ],
)
def test_an_open_line_to_another_machine_is_refused_in_one_sentence_without_the_password(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGSSLMODE", raising=False)
    with pytest.raises(SettingsProblem) as refused:
        check_address(address)
    assert "secret" not in refused.value.message and "database" in refused.value.message


def test_the_length_of_a_lease_stands_in_the_address() -> None:
    address = "postgresql://user@localhost/name"
    assert lease_of(address) == LEASE_S and lease_of(f"{address}?lease=2.5&pooler=transaction") == 2.5
    check_address(f"{address}?lease=10")
    for wrong in ("1", "601", "nan", "soon"):
        with pytest.raises(SettingsProblem, match=f"lease={wrong} .* seconds from 2 to 600"):
            check_address(f"{address}?lease={wrong}")


@pytest.mark.postgres
def test_leases_last_as_long_as_the_address_says(url: str) -> None:
    with contextlib.closing(open_store(f"{url}&lease=100")) as store:
        store.submit(draft())
        (lease,) = store.take(Kind.VLM, "w1")
        assert store.lease_s == 100.0 and 90 < seconds_left(store) <= 100
        with store.transaction() as transaction:
            transaction.execute("update claim set until = clock_timestamp()")
        store.renew("w1", [(lease.job.id, lease.token)])
        assert 90 < seconds_left(store) <= 100


def seconds_left(store: PostgresStore) -> float:
    """Of the one lease that there is."""
    ((seconds,),) = store.read("select extract(epoch from until - clock_timestamp()) from claim")
    return float(seconds)


@pytest.mark.postgres
def test_a_job_that_a_silent_worker_was_just_writing_holds_up_nobody_who_looks_for_lost_leases(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch.queue.postgres.leases.PostgresLeases._grace_s", 0.0)
    impatient = f"{url}&options=-c%20lock_timeout%3D2000"
    with contextlib.closing(open_store(impatient)) as store, psycopg.connect(url) as silent:
        store.submit(*(drafts := [draft() for _ in range(2)]))
        for worker in ("w1", "w2"):
            store.take(Kind.VLM, worker)
        with store.transaction() as transaction:
            transaction.execute("update claim set until = clock_timestamp() - interval '1 second'")
        silent.execute("update job set progress = '{}' where id = %s", (drafts[0].id,))
        assert store.reap(3) == [(drafts[1].id, State.QUEUED)]
        silent.rollback()
        assert store.reap(3) == [(drafts[0].id, State.QUEUED)]


@pytest.mark.postgres
def test_a_token_is_not_drawn_again_for_a_job_whose_take_was_lost_with_the_databases_last_moments(url: str) -> None:
    with contextlib.closing(open_store(url)) as store:
        store.submit(draft())
        for _ in range(2):
            (lost,) = store.take(Kind.VLM, "w1")
            store.put_back(lost, count=False)
            with store.transaction() as transaction:  # as a server finds itself after a crash
                transaction.execute("select setval('token', 1, false)")
        (lease,) = store.take(Kind.VLM, "w2")
        assert store.end([Ending(lost, State.DONE, "{}")]) == [False]
        assert store.end([Ending(lease, State.DONE, "{}")]) == [True]


@pytest.mark.postgres
def test_who_is_frozen_in_the_middle_of_a_transaction_holds_up_nobody_for_longer_than_ten_seconds(url: str) -> None:
    with contextlib.closing(open_store(url)) as store:
        assert store.read("show idle_in_transaction_session_timeout") == [("10s",)]
    soon = f"{url}&options=-c%20idle_in_transaction_session_timeout%3D500"
    with contextlib.closing(open_store(soon)) as frozen, contextlib.closing(open_store(url)) as other:
        with pytest.raises(StoreAway), frozen.transaction() as transaction:
            transaction.execute("insert into pause values ('vlm', 10)")
            other.note({"waited": "until the lock was free"})
            with other.transaction() as another:
                assert another.execute("select count(*) from pause").fetchall() == [(0,)]
            transaction.execute("insert into pause values ('vlm', 20)")
        frozen.submit(draft())
        assert other.queue_size(Kind.VLM) == 1


@pytest.mark.postgres
def test_behind_a_pooler_of_transactions_nothing_is_prepared(url: str) -> None:
    store = open_store(f"{url}&pooler=transaction")
    for _ in range(20):
        store.submit(draft())
    assert store.read("select count(*) from pg_prepared_statements") == [(0,)]
    store.close()
    store = open_store(url)
    for _ in range(20):
        store.submit(draft())
    assert store.read("select count(*) from pg_prepared_statements")[0][0] > 0
    store.close()
    with pytest.raises(SettingsProblem, match="pooler=session"):
        check_address(f"{url}&pooler=session")


def test_a_password_is_shown_nowhere() -> None:
    for address in ("postgresql://me:s3cret@h/db", "postgresql://me@h/db?password=s3cret&sslmode=verify-full"):
        assert has_password(address) and "s3cret" not in without_password(address)
    plain = "postgresql://me@/db?host=/run/postgresql"
    assert without_password(plain) == plain and not has_password(plain)


def test_only_the_marks_of_parameters_are_translated() -> None:
    assert to_psycopg("select '?' || \":x\" || a::text from b where c=? and d like '5%'") == (
        b"select '?' || \":x\" || a::text from b where c=%s and d like '5%%'"
    )
    assert to_psycopg("select :kind, :kind") == b"select %(kind)s, %(kind)s"
    assert to_parameters((True, Kind.VLM, Priority.BATCH, "a\0b", None, b"\0")) == (1, "vlm", 10, "a\ufffdb", None, b"\0")


def test_errors_say_what_to_do() -> None:
    def error(state: str) -> psycopg.Error:
        error: psycopg.Error = psycopg.errors.lookup(state)("it went wrong\nDETAIL: more")
        return error

    assert isinstance(to_batch_error(error("53100")), DiskFull)
    for state in ("08006", "57P01", "57P03", "25006", "25P03", "40P01", "53300"):
        away = to_batch_error(error(state))
        assert isinstance(away, StoreAway) and away.status == 503 and "DETAIL" not in away.message
    fault = error("42601")
    assert to_batch_error(fault) is fault, "a fault of ours is not hidden"


@pytest.mark.postgres
def test_a_newer_schema_is_refused(url: str) -> None:
    open_store(url).close()
    with psycopg.connect(url) as conn:
        conn.execute("insert into batch_schema (version) values (%s)", (VERSION + 1,))
    with pytest.raises(NewerDatabase, match="newer batch"):
        open_store(url)


@pytest.mark.postgres
def test_two_who_start_at_once_bring_the_schema_forward_once(url: str) -> None:
    stores: list[PostgresStore] = []
    threads = [threading.Thread(target=lambda: stores.append(open_store(url))) for _ in range(4)]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores) == 4 and all(store.read("select count(*) from batch_schema") == [(VERSION,)] for store in stores)
    for store in stores:
        store.close()


@pytest.mark.postgres
def test_counters_stay_what_they_are_while_they_are_added_up(url: str) -> None:
    store = open_store(url)
    store.submit(*(draft() for _ in range(5)))
    (lease,) = store.take(Kind.VLM, "w1")
    store.end([Ending(lease, State.DONE, "{}")])
    tally, today = sorted(store.tally()), store.today()
    with psycopg.connect(url) as conn:
        assert conn.execute("select fold_state_changes(3)").fetchone() == (True,)
    assert sorted(store.tally()) == tally and store.today() == today
    with psycopg.connect(url) as conn:
        conn.execute("select fold_state_changes(1000)")
    assert store.read("select count(*) from state_change") == [(0,)]
    assert sorted((n, state) for *_, state, n in store.tally() if n) == [(1, "done"), (4, "queued")] and store.today() == today
    store.close()


def _count_jobs(conn: psycopg.Connection[tuple[Any, ...]]) -> int:
    """Jobs that a standby has; -1 before it has their table."""
    try:
        row = conn.execute("select count(*) from job").fetchone()
    except psycopg.errors.UndefinedTable:
        return -1
    return -1 if row is None else int(row[0])


@pytest.mark.postgres
def test_a_standby_takes_over_and_leases_have_their_length_once_more() -> None:
    with running_server() as primary, contextlib.ExitStack() as opened:
        name = primary.new_database().partition("@/")[2].partition("?")[0]
        standby = primary.standby()
        try:
            standby.start()
            hosts = f"host={primary.folder},{standby.folder}&target_session_attrs=read-write"
            store = opened.enter_context(contextlib.closing(open_store(f"postgresql://{primary.user}@/{name}?{hosts}")))
            store.submit(*(drafts := [draft() for _ in range(5)]), durable=True)
            (lease,) = store.take(Kind.VLM, "w1")
            store.submit(draft(), durable=True)  # behind it in the log: what the standby has of this, it has of that
            deadline = time.monotonic() + 60
            with psycopg.connect(standby.url(name), autocommit=True) as conn:
                while _count_jobs(conn) != 6 and time.monotonic() < deadline:
                    time.sleep(0.05)
            primary.kill()
            with pytest.raises(StoreAway):
                store.submit(draft(), durable=True)
            standby.promote()
            while time.monotonic() < deadline:
                try:
                    store.submit(late := draft(), durable=True)
                    break
                except StoreAway:
                    time.sleep(0.05)
            kept = {row[0] for row in store.read("select id from job")}
            assert {one.id for one in drafts} <= kept and late.id in kept
            with store.transaction() as transaction:
                transaction.execute("update claim set until = clock_timestamp() - interval '1 second'")
            assert store.reap(3) == [], "nobody could renew it meanwhile"
            assert store.end([Ending(lease, State.DONE, "{}")]) == [True], "its worker goes on under the same token"
        finally:
            standby.close()


@pytest.mark.postgres
def test_a_nul_in_what_a_client_wrote_stands_in_no_listings_way(url: str) -> None:
    store = open_store(url)
    store.submit(draft())
    (lease,) = store.take(Kind.VLM, "w1")
    assert store.end([Ending(lease, State.FAILED, None, {"message": "not a name: a\0b", "class": "BadRequest"})]) == [True]
    (summary,) = store.newest_matching(JobFilter(error="not a name"), 5)
    assert summary.id == lease.job.id and summary.error is not None
    assert store.read("select json_extract(error, '$.message') from job") == [("not a name: a\ufffdb",)]
    completions = CompletionStore(store)
    for id, value in (("nul", "a\0b"), ("plain", "c")):
        completions.create(StoredCompletion(id=id, model="m", metadata={"k": value}, data=b"{}", messages=b"[]", created_at=1))
    page, _ = completions.page(after=None, limit=5, ascending=True, metadata={"k": "c"})
    assert [one.id for one in page] == ["plain"]
    page, _ = completions.page(after=None, limit=5, ascending=True, metadata={"k": "a\0b"})
    assert [one.id for one in page] == ["nul"]
    store.close()


@pytest.mark.postgres
def test_a_message_of_no_job_is_set_aside_and_told(url: str, caplog: pytest.LogCaptureFixture) -> None:
    store = open_store(url)
    with store.transaction() as transaction:
        transaction.execute("insert into task (queue, job, priority) values ('vlm', 'nobody', 20)")
    store.submit(one := draft())
    assert [lease.job.id for lease in store.take(Kind.VLM, "w1")] == [one.id]
    assert store.read("select count(*) from task where queue='set aside'") == [(1,)]
    assert sum("set aside" in record.message for record in caplog.records) == 1
    store.close()


@pytest.mark.postgres
def test_a_pooler_that_gives_the_connection_to_another_client_gives_it_as_it_was(url: str) -> None:
    store = open_store(url)
    store.submit(draft())
    store.take(Kind.VLM, "w1")
    assert store.read("show synchronous_commit") == [("on",)], "only ever set within a transaction"
    store.close()


@pytest.mark.postgres
def test_a_connection_that_was_cut_is_made_anew_unseen(url: str) -> None:
    store = open_store(url)
    store.submit(draft())
    for _ in range(3):
        cut_all(url)
        assert store.queue_size(Kind.VLM) == 1
    cut_all(url)
    store.submit(draft())
    assert store.queue_size(Kind.VLM) == 2
    store.close()


@pytest.mark.postgres
def test_what_was_accepted_durably_outlives_a_kill_of_the_server_and_who_asks_meanwhile_is_told_at_once(tmp_path: Path) -> None:
    with running_server() as server:
        url = server.new_database()
        stores = [open_store(url) for _ in range(3)]
        accepted: list[str] = []
        stop = threading.Event()

        def submit(store: PostgresStore) -> None:
            while not stop.is_set():
                one = draft()
                try:
                    store.submit(one, durable=True)
                except StoreAway:
                    time.sleep(0.01)
                else:
                    accepted.append(one.id)

        threads = [threading.Thread(target=submit, args=(store,)) for store in stores]
        for thread in threads:
            thread.start()
        for _ in range(2):
            number = len(accepted)
            deadline = time.monotonic() + 60
            while len(accepted) < number + 40 and time.monotonic() < deadline:
                time.sleep(0.01)
            server.kill()
            begun = time.monotonic()
            watcher = stores[0]
            with pytest.raises(StoreAway):
                watcher.read("select 1")
            assert time.monotonic() - begun < 10
            server.start()
        deadline = time.monotonic() + 60
        number = len(accepted)
        while len(accepted) < number + 10 and time.monotonic() < deadline:
            time.sleep(0.01)
        stop.set()
        for thread in threads:
            thread.join()
        kept = {row[0] for row in stores[0].read("select id from job")}
        assert len(accepted) > number and set(accepted) <= kept
        assert stores[0].queue_size(Kind.VLM) == len(kept), "each has its message"
        for store in stores:
            store.close()
