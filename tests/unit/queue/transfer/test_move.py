"""A home that moves into PostgreSQL and back is the home that it was."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from batch.database_address import FILE, address_of, remember_address
from batch.errors import BatchError, Conflict, Forbidden, SettingsProblem
from batch.notifications.shared_secrets import open_secrets
from batch.notifications.signing import SecretFiles
from batch.queue.jobs import Draft, Kind, Origin, Priority, State
from batch.queue.open_store import open_spool, open_store
from batch.queue.remote.home_id import home_id
from batch.queue.sqlite.schema import NewerDatabase
from batch.queue.transfer.move import MovedHome
from batch.queue.transfer.sides import CopyDiffers, TargetInUse
from database_roles import as_role, granted_roles
from full_home import LARGE, move_of, payloads_of, rows_of
from paths import DATA
from payloads import payload
from postgres_server import PostgresServer
from s3_server import S3Server

pytestmark = pytest.mark.postgres
Mover = Callable[[Path, str], MovedHome]


def database(home: Path) -> Path:
    return home / ".batch" / "batch.db"


def draft(**values: object) -> Draft:
    return Draft(payload("chat"), Origin.INBOX, Priority.INBOX, **values)  # type: ignore[arg-type]


def count(url: str, query: str) -> int:
    with psycopg.connect(url) as conn:
        row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def test_a_home_with_rows_in_every_table_comes_back_row_by_row(home: Path, url: str, mover: Mover) -> None:
    before, payloads = rows_of(database(home)), payloads_of(home / ".batch" / "spool")
    assert all(before.values()) and len(before["job"]) == 4 and before["file"][0][4] >= LARGE

    moved = mover(home, url)
    assert moved.rows["job"] == 4 and moved.payloads.count == 4 and not moved.payloads.missing
    assert not database(home).exists() and not (home / ".batch" / "spool").exists()
    aside = Path(moved.aside)
    assert rows_of(aside / "batch.db") == before and payloads_of(aside / "spool") == payloads
    assert address_of(home) == url
    assert count(url, "select count(*) from service where name = 'moved'") == 0

    back = mover(home, FILE)
    assert back.rows == moved.rows
    assert rows_of(database(home)) == before and payloads_of(home / ".batch" / "spool") == payloads
    assert address_of(home) == database(home)
    assert count(url, "select count(*) from pg_tables where schemaname = 'public'") == 0
    schema = back.aside.rpartition(" ")[2]
    assert count(url, f"select count(*) from {schema}.job") == 4
    with contextlib.closing(open_store(database(home))) as store:
        assert store.read("select count(*) from service") == [(0,)], "the note of the move is gone"
        store.check()
    assert database(home).stat().st_mode & 0o777 == 0o600

    again = mover(home, url)
    assert again.rows == moved.rows and rows_of(Path(again.aside) / "batch.db") == before, "as often as one likes"


def test_jobs_that_wait_keep_their_order_their_attempts_and_their_marks(home: Path, url: str, mover: Mover) -> None:
    shutil.rmtree(home / ".batch")
    with contextlib.closing(open_store(database(home))) as store:
        bulk, urgent, other = draft(), draft(), draft(parent="batch_1")
        store.submit(bulk, other, durable=True)
        interactive = Draft(payload("chat"), Origin.CLI, Priority.BATCH)
        store.submit(interactive, urgent)
        tallies = sorted(store.read("select kind, origin, state, n from tally where n <> 0"))
        jobs = store.read("select id, created_at, priority, message from job order by id")
    mover(home, url)
    with contextlib.closing(open_store(url, home=home)) as store:
        assert store.read("select id::text, created_at, priority, message from job order by id") == jobs
        assert sorted(store.read("select kind::text, origin::text, state::text, n from tally where n <> 0")) == tallies
        assert {row[0] for row in store.read("select front from job")} == {home_id(home / ".batch")}
        taken = [store.take(Kind.VLM, "w1")[0] for _ in range(4)]
        assert [lease.job.id for lease in taken] == [interactive.id, bulk.id, other.id, urgent.id]
        store.submit(late := draft())
        assert store.take(Kind.VLM, "w1")[0].job.id == late.id
        store.put_back(taken[1], count=True)
        store.cancel(taken[2].job.id)
    mover(home, FILE)
    with contextlib.closing(open_store(database(home))) as store:
        assert store.read("select count(*) from claim") == [(0,)]
        states = {job.id: (job.state, job.attempts) for job in store.jobs()}
        assert states == {
            interactive.id: (State.QUEUED, 0),  # it only waited for those that came after it
            bulk.id: (State.QUEUED, 1),
            other.id: (State.CANCELLED, 1),
            urgent.id: (State.QUEUED, 0),
            late.id: (State.QUEUED, 1),
        }
        order = [store.take(Kind.VLM, "w2")[0].job.id for _ in range(4)]
        assert order == [interactive.id, bulk.id, urgent.id, late.id]


def test_a_job_that_took_its_workers_down_is_failed_as_at_a_start(home: Path, url: str, mover: Mover) -> None:
    shutil.rmtree(home / ".batch")
    with contextlib.closing(open_store(database(home))) as store:
        store.submit(one := draft())
        for worker in ("w1", "w2", "w3"):
            store.take(Kind.VLM, worker)
            store.recover(Kind.VLM, f"after {worker}", 9, predecessor=worker)
        store.take(Kind.VLM, "w4")
    mover(home, url)
    with contextlib.closing(open_store(url, home=home)) as store:
        job = store.job(one.id)
        assert job is not None and job.state is State.FAILED and "died 4 times" in str(job.error)


def test_a_token_of_a_time_before_the_move_is_never_given_again(home: Path, url: str, mover: Mover) -> None:
    mover(home, url)
    with contextlib.closing(open_store(url, home=home)) as store:
        store.submit(draft())
        assert store.take(Kind.VLM, "w1")[0].token > LARGE


def test_what_the_search_index_finds_it_finds_on_the_other_side(home: Path, url: str, mover: Mover) -> None:
    mover(home, url)
    with contextlib.closing(open_store(url, home=home)) as store:
        tables = store.search_tables
        query = tables.all_of([])
        assert query == ""
        assert store.read("select count(*) from passage_fts f where f.t @@ cast('plain' as tsquery)") == [(1,)]
        assert store.read("select count(*) from passage_fts f where f.t @@ cast('quote' as tsquery)") == [(1,)]


def test_payloads_of_many_parts_and_of_none_travel_and_damaged_ones_are_told(home: Path, url: str, mover: Mover) -> None:
    spool = open_spool(database(home), home / ".batch" / "spool")
    large = spool.keep(bytes(range(256)) * 4096 * 5 + b"end")
    empty = spool.keep(b"")
    damaged = spool.keep(b"soon damaged")
    spool.location(damaged).write_bytes(b"damaged")
    gone = "ab" * 32
    with contextlib.closing(sqlite3.connect(database(home))) as conn, conn:
        for name in (large, empty, damaged, gone):
            conn.execute("insert into blob values ('job1', ?, 'request')", (name,))
    moved = mover(home, url)
    assert moved.payloads.count == 6 and moved.payloads.missing == 2
    assert set(moved.payloads.missing_names) == {damaged, gone}
    assert count(url, f"select count(*) from payload where sha256 = '{large}'") == 6
    back = mover(home, FILE)
    assert back.payloads.count == 6 and back.payloads.missing == 2
    held = payloads_of(home / ".batch" / "spool")
    assert held[large].endswith(b"end") and held[empty] == b"" and damaged not in held


def test_what_other_homes_dropped_is_not_taken_for_this_homes(home: Path, url: str, mover: Mover) -> None:
    mover(home, url)
    with psycopg.connect(url) as conn:
        assert set(conn.execute("select front from file union select front from entry_source")) == {(home_id(home / ".batch"),)}
        conn.execute("update file set front = 'another', path = path || '2' where id = 10")
    with pytest.raises(Conflict, match=r"files of other homes' inboxes, too \(table file\).*Nothing was moved"):
        mover(home, FILE)


def test_what_webhooks_are_signed_with_comes_along(home: Path, url: str, mover: Mover) -> None:
    files = SecretFiles(home / ".batch" / "webhooks")
    before = files.ensure("target_1")
    mover(home, url)
    with contextlib.closing(open_store(url, home=home)) as store:
        shared = open_secrets(store, home / ".batch" / "webhooks")
        assert shared.ensure("target_1") == before
        rotated = shared.rotate("target_1", keep_old=True)
        new = shared.ensure("target_2")
    mover(home, FILE)
    assert files.read("target_1") == rotated and files.read("target_2") == new


def test_a_rebuild_of_the_search_index_that_had_begun_stands_in_no_moves_way(home: Path, url: str, mover: Mover) -> None:
    mover(home, url)
    with contextlib.closing(open_store(url, home=home)) as store, store.transaction() as transaction:
        store.search_tables.create_beside(transaction, ("entry",), ("_reindex_entry",), 1, 100)
        store.search_tables.note_changes(transaction, "entry_source", "_reindex_change", "_reindex_")
    mover(home, FILE)
    assert count(url, "select count(*) from pg_class where relnamespace = 'public'::regnamespace") == 0
    mover(home, url)


def test_payloads_that_somebody_deletes_on_their_way_keep_a_home_where_it_is(
    home: Path, url: str, mover: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batch.queue.transfer import move

    def swept(*arguments: object) -> object:
        payloads = share(*arguments)  # type: ignore[arg-type]
        with psycopg.connect(url) as conn:
            conn.execute("delete from payload where sha256 = (select min(sha256) from payload)")
        return payloads

    share = move.share_payloads
    monkeypatch.setattr(move, "share_payloads", swept)
    with pytest.raises(CopyDiffers, match=r"had been copied are gone.*Nothing was moved"):
        mover(home, url)
    assert address_of(home) == database(home)


def test_payloads_go_into_a_bucket_and_come_back_from_it(
    home: Path, url: str, mover: Mover, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.variables.items():
        monkeypatch.setenv(name, value)
    before = payloads_of(home / ".batch" / "spool")
    assert move_of(home, payloads="s3://payloads/move").to_postgres(url).payloads.count == 4
    assert count(url, "select count(*) from payload") == 0
    assert count(url, "select count(*) from payload_object where is_whole and place = 's3://payloads/move'") == 4
    assert mover(home, FILE).payloads.count == 4 and payloads_of(home / ".batch" / "spool") == before


def test_a_bucket_is_given_up_before_a_home_goes_back(home: Path, url: str, mover: Mover) -> None:
    mover(home, url)
    with pytest.raises(SettingsProblem, match="The setting payloads names a bucket"):
        move_of(home, payloads="s3://bucket/prefix").to_sqlite()


def test_a_nul_in_a_text_becomes_the_sign_for_what_cannot_be_shown(home: Path, url: str, mover: Mover) -> None:
    with contextlib.closing(sqlite3.connect(database(home))) as conn, conn:
        conn.execute("update job set request='a' || char(0) || 'b' where id='job-id-1'")
    mover(home, url)
    assert count(url, "select count(*) from job where request = 'a\ufffdb'") == 1


def test_a_database_with_rows_of_another_home_is_refused_and_stays_as_it_is(home: Path, url: str, mover: Mover) -> None:
    with contextlib.closing(open_store(url, home=home, front="other")) as store:
        store.submit(theirs := draft())
    with pytest.raises(TargetInUse, match=r"holds rows of this or another home already \(table job\).*Nothing was moved"):
        mover(home, url)
    assert database(home).exists() and address_of(home) == database(home)
    assert count(url, "select count(*) from job") == 1
    with contextlib.closing(open_store(url, home=home, front="other")) as store:
        assert store.job(theirs.id) is not None


def test_a_file_with_rows_from_before_is_refused_on_the_way_back(home: Path, url: str, mover: Mover) -> None:
    mover(home, url)
    with contextlib.closing(open_store(database(home))) as store:
        store.submit(draft())
    with pytest.raises(TargetInUse, match=r"batch\.db holds rows already"):
        mover(home, FILE)
    assert address_of(home) == url and count(url, "select count(*) from job") == 4


def test_a_home_that_is_there_already_is_told_so(home: Path, url: str, mover: Mover) -> None:
    with pytest.raises(Conflict, match="in its SQLite file already"):
        mover(home, FILE)
    mover(home, url)
    with pytest.raises(Conflict, match="in that database already"):
        mover(home, url)
    with pytest.raises(SettingsProblem, match="another PostgreSQL database"):
        mover(home, "postgresql://batch@localhost/other")


def test_a_database_that_others_use_is_not_left_under_their_hands(
    home: Path, url: str, mover: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch.queue.transfer.postgres_access._OTHERS_END_S", 0.5)
    mover(home, url)
    with (
        contextlib.closing(open_store(url, home=home, front="other")),
        pytest.raises(Conflict, match="Other programs use the database"),
    ):
        mover(home, FILE)
    mover(home, FILE)


def test_who_waits_to_write_into_the_file_that_was_left_is_refused(home: Path, url: str, mover: Mover) -> None:
    late = sqlite3.connect(database(home), isolation_level=None)
    late.execute("select count(*) from job").fetchone()
    mover(home, url)
    with contextlib.closing(late), pytest.raises(sqlite3.IntegrityError, match="were moved to PostgreSQL"):
        late.execute("insert into task (queue, data, priority) values ('vlm', x'00', 0)")


def test_settings_that_name_a_database_are_changed_with_the_switch_and_nothing_else_in_them(
    home: Path, url: str, mover: Mover
) -> None:
    toml = home / "batch.toml"
    text = f'# mine\nprofile = "starter"\ndatabase = "{url}"\nlog_level = "debug"\n[vlm]\nport = 9\n'
    toml.write_text(text)
    toml.chmod(0o640)
    mover(home, url)
    assert toml.read_text() == text, "it says where the home is now"
    mover(home, FILE)
    assert toml.read_text() == text.replace(f'database = "{url}"', f'# database = "{url}"  # until `batch move-to`')
    assert toml.stat().st_mode & 0o777 == 0o640
    assert address_of(home) == database(home)
    toml.write_text(f'database = """{url}\n"""\n')
    remember_address(home / ".batch", FILE)
    with pytest.raises(SettingsProblem, match="cannot be taken out of it"):
        mover(home, f"{url}\n")


def test_a_home_of_an_older_version_is_brought_forward_on_its_way(tmp_path: Path, url: str, mover: Mover) -> None:
    (tmp_path / ".batch").mkdir()
    with contextlib.closing(sqlite3.connect(database(tmp_path))) as conn:
        conn.executescript((DATA / "schema-3-with-folder.sql").read_text())
        jobs = conn.execute("select id, created_at, request from job order by id").fetchall()
    moved = mover(tmp_path, url)
    assert moved.rows["job"] == len(jobs) == 10 and moved.rows["file"] > 0
    with contextlib.closing(open_store(url, home=tmp_path)) as store:
        assert store.read("select id, created_at, request from job order by id") == jobs
        assert store.read("select count(*) from claim") == [(0,)]


def test_a_database_of_a_newer_version_is_refused_on_either_side(home: Path, url: str, mover: Mover) -> None:
    open_store(url).close()
    with psycopg.connect(url) as conn:
        conn.execute("insert into batch_schema (version) values (10000)")
    with pytest.raises(NewerDatabase, match="written by a newer batch"):
        mover(home, url)
    with psycopg.connect(url) as conn:
        conn.execute("delete from batch_schema where version = 10000")
    with contextlib.closing(sqlite3.connect(database(home))) as conn:
        conn.execute("pragma user_version=10000")
    with pytest.raises(NewerDatabase, match="written by a newer batch"):
        mover(home, url)
    assert address_of(home) == database(home)


def test_a_copy_that_is_not_what_was_sent_is_never_switched_to(
    home: Path, url: str, mover: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batch.queue.transfer import move

    copy_rows = move.copy_rows

    def damaged(source: object, target: object, report: object) -> object:
        sent = copy_rows(source, target, report)  # type: ignore[arg-type]
        target._conn.execute("update job set created_at = created_at + 0.000001 where id = 'job-id-1'")  # type: ignore[attr-defined]
        return sent

    before = rows_of(database(home))
    monkeypatch.setattr(move, "copy_rows", damaged)
    with pytest.raises(CopyDiffers, match=r"table job did not arrive as it was \(4 rows of 4.*Nothing was moved"):
        mover(home, url)
    assert rows_of(database(home)) == before and address_of(home) == database(home)
    assert count(url, "select count(*) from job") == 0
    monkeypatch.undo()
    mover(home, url)
    monkeypatch.setattr(move, "copy_rows", damaged)
    with pytest.raises(CopyDiffers, match="table job did not arrive"):
        mover(home, FILE)
    assert address_of(home) == url and not database(home).exists()


def test_only_the_role_that_owns_the_tables_moves_a_home(home: Path, postgres_server: PostgresServer, mover: Mover) -> None:
    roles = granted_roles(postgres_server)
    before = rows_of(database(home))
    for address in (roles.front, roles.worker):
        with pytest.raises(BatchError, match=r"does not own the tables|may not change it"):
            mover(home, address)
    assert address_of(home) == database(home)
    assert mover(home, roles.owner).rows["job"] == 4
    with contextlib.closing(open_store(roles.front, home=home)) as store:
        store.submit(draft())
        assert store.read("select count(*) from job") == [(5,)], "the roles' rights are as before"
    with pytest.raises(Forbidden, match="may make no schema to put the tables aside: let an administrator run `grant create"):
        mover(home, FILE)
    with psycopg.connect(as_role(roles.owner, "postgres"), autocommit=True) as conn:
        owner = roles.owner.split("//")[1].split("@")[0]
        conn.execute(f"grant create on database {conn.info.dbname} to {owner}".encode())
    mover(home, FILE)
    assert rows_of(database(home))["file"] == before["file"]
