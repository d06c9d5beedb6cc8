"""A PostgreSQL database as what a move leaves or fills: one transaction from its beginning to its end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from batch.errors import Conflict, Forbidden
from batch.queue.full_text.tsvector_tables import TsvectorTables
from batch.queue.postgres import schema
from batch.queue.postgres.connection_info import connect
from batch.queue.transfer.postgres_access import owner_of, postgres_errors, refuse_connected
from batch.queue.transfer.postgres_aside import has_schema, put_tables_aside
from batch.queue.transfer.sides import PAGE_OF_PAYLOADS, Row, Words, payload_pages
from batch.queue.transfer.tables import COUNTER_TABLES, FRONT, ID_COLUMNS, MARK, MOVED_TABLES, ONE_ROW_TABLES

_LOCK_TIMEOUT = "20s"
_COLUMNS = (
    "select a.attname, coalesce(b.typname, t.typname) from pg_attribute a join pg_type t on t.oid = a.atttypid "
    "left join pg_type b on t.typtype = 'd' and b.oid = t.typbasetype "
    "where a.attrelid = to_regclass(%s) and a.attnum > 0 and not a.attisdropped order by a.attnum"
)
_STORED_CONTENT = (
    "insert into stored_content select sha256, count(*) from "
    "(select sha256 from stored_file union all select sha256 from upload_part) as a group by sha256"
)
_NEXT_TOKEN = (
    "select setval('token', greatest((select last_value from token), (select coalesce(max(token), 0) >> 20 from job) + 1))"
)
"""A fencing token is this sequence's number and twenty digits by chance behind it."""
_LACKING = (
    "select count(distinct b.sha256) from blob b "
    "where not exists (select 1 from payload p where p.sha256 = b.sha256 and p.part = 0) "
    "and not exists (select 1 from payload_object o where o.sha256 = b.sha256 and o.is_whole)"
)
_INTEGERS = ("int2", "int4", "int8")


class PostgresRows:
    """Reads the tables of a database, within one transaction."""

    def __init__(self, url: str, words: Words, front: str, inbox: str) -> None:
        """`words`: of passages. `front`, `inbox`: the home's id, and that of its inbox."""
        self._words = words
        self._front = front
        self._inbox = inbox
        self._types: dict[str, dict[str, str]] = {}
        with postgres_errors():
            self._conn = connect(url)
            try:
                schema.migrate(self._conn)
                self._owner = owner_of(self._conn)
            except BaseException:
                self._conn.close()
                raise

    def _types_of(self, table: str) -> dict[str, str]:
        if table not in self._types:
            with postgres_errors():
                rows = self._conn.execute(_COLUMNS, (table,)).fetchall()
            self._types[table] = {str(name): str(type) for name, type in rows}
        return self._types[table]

    def columns(self, table: str) -> list[str]:
        """The columns that are copied, as far as this database has them."""
        return [name for name in self._types_of(table) if name != FRONT]

    def rows(self, table: str, columns: Sequence[str]) -> Iterator[Row]:
        """All rows, one at a time."""
        types = [self._types_of(table)[name] for name in columns]
        query = f"select {_names(columns)} from {table}"
        if table == "passage_fts":
            # The words themselves are not kept: they come from the passage again.
            columns, types = ["rowid", "t"], ["int8", "text"]
            query = "select f.rowid, p.text from passage_fts f join passage p on p.id = f.rowid"
        with postgres_errors(), self._conn.cursor() as cursor, cursor.copy(f"copy ({query}) to stdout".encode()) as copy:
            copy.set_types(types)
            if table == "passage_fts":
                yield from ((row[0], self._words(row[1])) for row in copy.rows())
            else:
                yield from copy.rows()

    def as_stored(self, table: str, columns: Sequence[str]) -> Callable[[Row], Row]:
        """Whole numbers where the column is for such; a NUL, which has no place in a text, is the sign for what cannot be
        shown."""
        types = [self._types_of(table)[name] for name in columns]
        whole = [place for place, type in enumerate(types) if type in _INTEGERS]

        def stored(row: Row) -> Row:
            cells = [cell.replace("\0", "\ufffd") if isinstance(cell, str) and "\0" in cell else cell for cell in row]
            for place in whole:
                if isinstance(cell := cells[place], float):
                    cells[place] = round(cell)
            return tuple(cells)

        return stored

    def highest_id(self, table: str) -> int:
        """The highest id that the database has handed out; 0 where none."""
        with postgres_errors():
            (sequence,) = self._one("select pg_get_serial_sequence(%s, %s)", (table, ID_COLUMNS[table]))
            last, is_called = self._one(f"select last_value, is_called from {sequence}")
            (highest,) = self._one(f"select coalesce(max({ID_COLUMNS[table]}), 0) from {table}")
        return max(int(last) if is_called else 0, int(highest))

    def payload_names(self) -> Iterator[str]:
        """The sha256 of every payload that a row refers to, once each."""
        query = PAGE_OF_PAYLOADS.format("%s").encode()

        def page_after(last: str) -> list[str]:
            with postgres_errors():
                return [str(row[0]) for row in self._conn.execute(query, (last,)).fetchall()]

        return payload_pages(page_after)

    def table_in_use(self) -> str:
        """A table that holds something; empty where none does."""
        with postgres_errors():
            for table in MOVED_TABLES:
                if table not in ONE_ROW_TABLES and self._conn.execute(f"select 1 from {table} limit 1".encode()).fetchone():
                    return table
        return ""

    def mark(self) -> str:
        """The note of a move of this home's that filled this database and has not ended; empty where there is none."""
        with postgres_errors():
            query = b"select value from service where front=%s and name=%s"
            row = self._conn.execute(query, (self._front, MARK)).fetchone()
        return str(row[0]) if row else ""

    def _one(self, query: str, params: Sequence[Any] = ()) -> tuple[Any, ...]:
        row = self._conn.execute(query.encode(), params).fetchone()
        assert row is not None
        return row

    def close(self) -> None:
        """Leave it; what was not committed is gone."""
        self._conn.close()


class PostgresSource(PostgresRows):
    """The database that a home leaves; nobody else may be connected, and who comes waits to write."""

    def __init__(self, url: str, words: Words, front: str, inbox: str) -> None:
        """Raises Conflict where other programs are connected, or where the database holds files of other inboxes."""
        super().__init__(url, words, front, inbox)
        try:
            with postgres_errors():
                self._refuse_without_schema()
                refuse_connected(self._conn)
                self._conn.execute(b"begin isolation level repeatable read")
                self._conn.execute(b"set local role " + self._owner)  # nothing is read before all is locked
                self._conn.execute(f"set local lock_timeout = '{_LOCK_TIMEOUT}'".encode())
                tables = [COUNTER_TABLES.get(table, table) for table in MOVED_TABLES]
                self._conn.execute(f"lock table {', '.join(tables)}, state_change, claim in exclusive mode".encode())
                self._refuse_other_inboxes()
        except BaseException:
            self.close()
            raise

    def _refuse_without_schema(self) -> None:
        """Raise Forbidden where the tables could not be put aside in the end."""
        query = (
            "select has_database_privilege(%s::text::regrole, current_database(), 'CREATE'), quote_ident(current_database())"
        )
        may_create, database = self._one(query, (self._owner.decode(),))
        if not may_create:
            owner = self._owner.decode()
            raise Forbidden(
                f"The role {owner} may make no schema to put the tables aside: let an administrator run `grant create on "
                f"database {database} to {owner}`."
            )

    def _refuse_other_inboxes(self) -> None:
        for table in MOVED_TABLES:
            if table != "job" and FRONT in self._types_of(table):
                query = f"select front from {table} where front <> '' and front <> %s and front <> %s limit 1".encode()
                if self._conn.execute(query, (self._front, self._inbox)).fetchone():
                    raise Conflict(
                        f"The database holds files of other homes' inboxes, too (table {table}), for which this home's file "
                        "has no place: it stays in PostgreSQL."
                    )

    def secrets(self) -> list[tuple[str, str]]:
        """(endpoint, JSON of its secrets) of all that this database keeps."""
        with postgres_errors():
            rows = self._conn.execute(b"select target::text, secrets from notification_secret").fetchall()
        return [(str(target), str(text)) for target, text in rows]

    def check(self) -> None:
        """Raise StoreAway where the transaction that kept others from writing is gone."""
        with postgres_errors():
            self._one("select 1")

    def put_aside(self, name: str) -> str:
        """Move all tables and what belongs to them into a schema of that name, where no service looks."""
        with postgres_errors():
            put_tables_aside(self._conn, name)
            self._conn.execute(b"commit")
        self.close()
        return f"the database's schema {name}"

    def has_schema(self, name: str) -> bool:
        """Whether tables were put aside under that name."""
        with postgres_errors():
            return has_schema(self._conn, name)


class PostgresTarget(PostgresRows):
    """The database that a home moves into; triggers are off until all is there, and nobody sees it before."""

    def begin(self, *, is_replacing: bool) -> None:
        """`is_replacing`: what is there is a copy that an earlier move left."""
        names = [COUNTER_TABLES.get(table, table) for table in MOVED_TABLES]
        with postgres_errors():
            self._conn.execute(b"begin")
            self._conn.execute(b"set local role " + self._owner)
            self._conn.execute(f"set local lock_timeout = '{_LOCK_TIMEOUT}'".encode())
            for table in (*names, "claim"):
                self._conn.execute(f"alter table {table} disable trigger user".encode())
            if is_replacing:
                self._conn.execute(f"truncate {', '.join(names)}, state_change, stored_content, claim".encode())
            for table in ONE_ROW_TABLES:
                self._conn.execute(f"delete from {table}".encode())

    def write(self, table: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
        """Store the rows of a table, none of which is there."""
        into = COUNTER_TABLES.get(table, table)
        names = list(columns)
        if FRONT in self._types_of(table):
            names.append(FRONT)
            front = self._front if table == "job" else self._inbox
            rows = ((*row, front) for row in rows)
        elif table == "passage_fts":
            place, column = columns.index("t"), TsvectorTables().column
            rows = ((*row[:place], column(row[place]), *row[place + 1 :]) for row in rows)
        statement = f"copy {into} ({_names(names)}) from stdin".encode()
        with postgres_errors(), self._conn.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)

    def set_highest_id(self, table: str, id: int) -> None:
        """The next id that is handed out is a higher one."""
        if id:
            with postgres_errors():
                self._one("select setval(pg_get_serial_sequence(%s, %s), %s)", (table, ID_COLUMNS[table], id))

    def finish(self) -> None:
        """Fencing tokens go on above those of the jobs, what is counted by content is counted, and triggers are on again."""
        with postgres_errors():
            self._one(_NEXT_TOKEN)
            self._conn.execute(_STORED_CONTENT.encode())
            for table in (*(COUNTER_TABLES.get(table, table) for table in MOVED_TABLES), "claim"):
                self._conn.execute(f"alter table {table} enable trigger user".encode())

    def lacking_payloads(self) -> int | None:
        """How many payloads rows refer to that are not there: a sweeper may have taken what no row named yet."""
        with postgres_errors():
            return int(self._one(_LACKING)[0])

    def commit(self, mark: str) -> None:
        """All rows are there from now on, on the database's disk, with a note that says whose copy this is."""
        with postgres_errors():
            self._conn.execute(
                b"insert into service (front, name, value) values (%s,%s,%s) "
                b"on conflict (front, name) do update set value=excluded.value",
                (self._front, MARK, mark),
            )
            self._conn.execute(b"set local synchronous_commit = on")
            self._conn.execute(b"commit")

    def confirm(self) -> None:
        """The home works on this database: the note goes, and the planner learns how much there is."""
        tables = ", ".join(COUNTER_TABLES.get(table, table) for table in MOVED_TABLES)
        with postgres_errors(), self._conn.transaction():
            self._conn.execute(b"set local role " + self._owner)
            self._conn.execute(b"delete from service where front=%s and name=%s", (self._front, MARK))
            self._conn.execute(f"analyze {tables}".encode())


def _names(columns: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in columns)
