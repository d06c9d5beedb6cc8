"""A table or a column that somebody adds to a schema is not forgotten when a home moves."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from batch.queue.open_store import open_store
from batch.queue.transfer.postgres_aside import made_names
from batch.queue.transfer.tables import (
    COUNTER_TABLES,
    FRONT,
    ID_COLUMNS,
    LEFT_TABLES,
    MOVED_TABLES,
    POSTGRES_COLUMNS,
    POSTGRES_TABLES,
    SQLITE_COLUMNS,
    SQLITE_TABLES,
)
from postgres_server import PostgresServer

Columns = dict[str, set[str]]


@pytest.fixture
def of_sqlite(tmp_path: Path) -> Columns:
    """The columns of every table."""
    path = tmp_path / ".batch" / "batch.db"
    open_store(path).close()
    with contextlib.closing(sqlite3.connect(path)) as conn:
        tables = [name for (name,) in conn.execute("select name from sqlite_master where type='table'")]
        columns = {table: {row[1] for row in conn.execute(f"pragma table_info({table})")} for table in tables}
    columns["passage_fts"].add("rowid")
    return {table: names for table, names in columns.items() if not table.startswith("passage_fts_")}


@pytest.fixture
def of_postgres(postgres_server: PostgresServer) -> Iterator[Columns]:
    """The columns of every table and view."""
    url = postgres_server.new_database()
    open_store(url).close()
    columns: Columns = {}
    with psycopg.connect(url) as conn:
        for table, column in conn.execute(
            "select table_name, column_name from information_schema.columns where table_schema = current_schema()"
        ):
            columns.setdefault(table, set()).add(column)
    yield columns
    postgres_server.empty_database(url)


def test_every_table_of_sqlite_is_moved_or_left_for_a_reason(of_sqlite: Columns) -> None:
    assert set(of_sqlite) == {*MOVED_TABLES, *LEFT_TABLES, *SQLITE_TABLES}


@pytest.mark.postgres
def test_every_table_of_postgres_is_moved_or_left_for_a_reason(of_postgres: Columns) -> None:
    assert set(of_postgres) == {*MOVED_TABLES, *LEFT_TABLES, *POSTGRES_TABLES}


@pytest.mark.postgres
def test_every_column_of_a_moved_table_is_in_both_databases_or_left_for_a_reason(
    of_sqlite: Columns, of_postgres: Columns
) -> None:
    sqlite_alone, postgres_alone = set(), set()
    for table in MOVED_TABLES:
        sqlite_alone |= {f"{table}.{column}" for column in of_sqlite[table] - of_postgres[table] - {FRONT}}
        postgres_alone |= {f"{table}.{column}" for column in of_postgres[table] - of_sqlite[table] - {FRONT}}
    assert (sqlite_alone, postgres_alone) == (set(SQLITE_COLUMNS), set(POSTGRES_COLUMNS))


@pytest.mark.postgres
def test_every_id_that_postgres_hands_out_goes_on_where_it_stood(postgres_server: PostgresServer) -> None:
    url = postgres_server.new_database()
    open_store(url).close()
    with psycopg.connect(url) as conn:
        rows = conn.execute(
            "select table_name, column_name from information_schema.columns "
            "where table_schema = current_schema() and is_identity = 'YES'"
        ).fetchall()
    ids = {table: column for table, column in rows if table in MOVED_TABLES}
    assert ids == ID_COLUMNS
    postgres_server.empty_database(url)


@pytest.mark.postgres
def test_all_that_the_migrations_make_in_postgres_is_known_by_name(postgres_server: PostgresServer) -> None:
    url = postgres_server.new_database()
    open_store(url).close()
    with psycopg.connect(url) as conn:
        relations = {
            name
            for (name,) in conn.execute(
                "select c.relname from pg_class c where c.relnamespace = current_schema()::regnamespace "
                "and (c.relkind in ('r', 'v') or c.relkind = 'S' and not exists "
                "(select 1 from pg_depend d where d.objid = c.oid and d.deptype in ('a', 'i')))"
            )
        }
        functions = {
            name for (name,) in conn.execute("select proname from pg_proc where pronamespace = current_schema()::regnamespace")
        }
    names = made_names()
    assert relations == names["table"] | names["view"] | names["sequence"]
    assert functions <= names["function"]
    assert set(COUNTER_TABLES) == names["view"]
    postgres_server.empty_database(url)
