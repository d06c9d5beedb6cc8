"""The ledger's tables, and homes of before they were numbered."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from batch.folder.file_counts import FileCounts, count_files
from batch.folder.ledger import Ledger
from batch.queue.database_schema import VERSION
from batch.queue.ledger_tables import NEW_COLUMNS
from batch.queue.store import Store

LEDGER_OF_BEFORE = """
create table content (
  id integer primary key, key text not null unique, sha256 text not null, size integer not null, kind text not null,
  parameters text not null, state text not null, step text not null, job text not null, jobs text not null,
  models text not null default '{}', error text, owner integer, created_at real not null, finished_at real);
create table file (
  id integer primary key, path blob not null unique, folder blob not null, size integer not null,
  mtime_ns integer not null, inode integer not null, ctime_ns integer not null, state text not null,
  content integer, error text, rules text not null default '{}', gone integer not null default 0,
  accepted_at real not null, finished_at real);
create table file_tally (state text primary key, n integer not null) without rowid;
create trigger file_insert after insert on file begin
  insert into file_tally values (new.state, 1) on conflict do update set n = n + 1;
end;
insert into content values (1, 'k', 'abc', 3, 'image',
  '{"prompt": "p", "max_tokens": 9, "temperature": 0.2, "thinking": false, "embed": true}',
  'done', 'caption', 'j', '{"caption": "j"}', '{}', null, 1, 1.0, 2.0);
insert into file values (1, x'612e6a7067', x'', 3, 5, 6, 7, 'writing', 1, null,
  '{"formats": ["txt", "json"], "source": "move", "done": "done"}', 0, 1.0, null);
"""


def home_of_before(path: Path) -> None:
    """As version 0.1's first state left it: the ledger's tables, made beside the numbered migrations."""
    Store(path).close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        for name in ("content", "file", "file_tally"):
            database.execute(f"drop table {name}")
        database.executescript(LEDGER_OF_BEFORE)
        database.execute("delete from _sqlite_migrations where name = '0005 the folder''s ledger'")
        database.execute("pragma user_version=4")
        database.commit()


def test_a_home_of_before_the_numbered_migrations_keeps_its_files_and_gains_the_new_columns(tmp_path: Path) -> None:
    path = tmp_path / ".batch" / "batch.db"
    home_of_before(path)
    store = Store(path)
    assert store.read("pragma user_version") == [(VERSION,)]
    for table, column, _ in NEW_COLUMNS:
        assert column in {row[1] for row in store.read(f"pragma table_info({table})")}
    (delivery,) = Ledger(store).deliveries()
    assert delivery.path == "a.jpg" and delivery.content is not None and delivery.content.jobs == {"caption": "j"}
    assert delivery.rules.source == "move" and delivery.rules.done_folder == ""
    assert count_files(store) == FileCounts(waiting=1)
    with store.transaction() as transaction:
        transaction.execute("update file set state='done'")
    assert count_files(store) == FileCounts(done=1), "the triggers are there too"
    store.close()


def test_a_new_home_has_the_ledger_before_any_service_ran(tmp_path: Path) -> None:
    store = Store(tmp_path / ".batch" / "batch.db")
    assert Ledger(store).deliveries() == [] and count_files(store) == FileCounts()
    store.close()
