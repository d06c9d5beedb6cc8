"""The ledger's tables, and homes of before they were numbered."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from batch.folder.ledger.file_counts import FileCounts, count_files
from batch.folder.ledger.ledger import Ledger
from batch.queue.open_store import open_store
from batch.queue.sqlite.schema import VERSION
from paths import DATA

FILE_OF_BEFORE = """
delete from file;
delete from content;
insert into content values (1, 'k', 'abc', 3, 'image',
  '{"prompt": "p", "max_tokens": 9, "temperature": 0.2, "thinking": false, "embed": true}',
  'done', 'caption', 'j', '{"caption": "j"}', '{}', null, 1, 1.0, 2.0);
insert into file values (1, x'612e6a7067', x'', 3, 5, 6, 7, 'writing', 1, null,
  '{"formats": ["txt", "json"], "source": "move", "done": "done"}', 0, 1.0, null);
"""


def home_of_before(path: Path) -> None:
    """As version 0.1 left it: the ledger's tables, made beside the numbered migrations."""
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript((DATA / "schema-3-with-folder.sql").read_text() + FILE_OF_BEFORE)
        database.commit()


def test_a_home_of_before_the_numbered_migrations_keeps_its_files_and_gains_the_new_columns(tmp_path: Path) -> None:
    path = tmp_path / ".batch" / "batch.db"
    home_of_before(path)
    store = open_store(path)
    assert store.read("pragma user_version") == [(VERSION,)]
    assert "redo" in {row[1] for row in store.read("pragma table_info(file)")}
    assert "reading" in {row[1] for row in store.read("pragma table_info(content)")}
    (delivery,) = Ledger(store).deliveries()
    assert delivery.path == "a.jpg" and delivery.content is not None and delivery.content.jobs == {"caption": "j"}
    assert delivery.rules.source == "move" and delivery.rules.done_folder == ""
    assert count_files(store) == FileCounts(waiting=1)
    with store.transaction() as transaction:
        transaction.execute("update file set state='done'")
    assert count_files(store) == FileCounts(done=1), "the triggers are there too"
    store.close()


def test_a_new_home_has_the_ledger_before_any_service_ran(tmp_path: Path) -> None:
    store = open_store(tmp_path / ".batch" / "batch.db")
    assert Ledger(store).deliveries() == [] and count_files(store) == FileCounts()
    store.close()
