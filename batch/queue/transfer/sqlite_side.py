"""The home's SQLite file as what a move leaves or fills."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from batch.durable_folder import put_on_disk
from batch.errors import BatchError, DiskFull
from batch.queue.messages import job_named_in, message_for
from batch.queue.sqlite import schema
from batch.queue.transfer.sides import PAGE_OF_PAYLOADS, Row, payload_pages
from batch.queue.transfer.tables import FRONT, ID_COLUMNS, MARK, MOVED_TABLES, ONE_ROW_TABLES

FILE_ENDINGS = ("", "-wal", "-shm")
"""What belongs to a database, by what follows its name."""
_ROWS_AT_ONCE = 200
_EVENTS = ("insert", "update", "delete")


class SqliteRows:
    """Reads the tables of a database."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._conn = sqlite3.connect(path, timeout=schema.OPEN_TIMEOUT_S, isolation_level=None)

    def columns(self, table: str) -> list[str]:
        """The columns that are copied, as far as this database has them."""
        if table == "passage_fts":
            return ["rowid", "t"]
        names = [str(row[1]) for row in self._conn.execute(f"pragma table_info({table})")]
        return ["job" if (table, name) == ("task", "data") else name for name in names if name != FRONT]

    def rows(self, table: str, columns: Sequence[str]) -> Iterator[Row]:
        """All rows, one at a time; a message as the job that it names."""
        is_task = table == "task"
        names = ", ".join(f'"{"data" if is_task and name == "job" else name}"' for name in columns)
        cursor = self._conn.execute(f"select {names} from {table}")
        place = columns.index("job") if is_task else -1
        with sqlite_errors(self.path):
            while rows := cursor.fetchmany(_ROWS_AT_ONCE):
                if is_task:
                    rows = [(*row[:place], job_named_in(row[place]) or None, *row[place + 1 :]) for row in rows]
                yield from rows

    def as_stored(self, table: str, columns: Sequence[str]) -> Callable[[Row], Row]:
        """Rows are stored as they come."""
        return lambda row: row

    def highest_id(self, table: str) -> int:
        """The highest id that the database has handed out; 0 where none."""
        (highest,) = self._conn.execute(f"select coalesce(max({ID_COLUMNS[table]}), 0) from {table}").fetchone()
        row = self._conn.execute("select seq from sqlite_sequence where name=?", (table,)).fetchone()
        return max(int(highest), int(row[0]) if row else 0)

    def payload_names(self) -> Iterator[str]:
        """The sha256 of every payload that a row refers to, once each."""
        query = PAGE_OF_PAYLOADS.format("?")
        return payload_pages(lambda last: [str(row[0]) for row in self._conn.execute(query, (last,)).fetchall()])

    def table_in_use(self) -> str:
        """A table that holds something; empty where none does."""
        for table in MOVED_TABLES:
            if table not in ONE_ROW_TABLES and self._conn.execute(f"select 1 from {table} limit 1").fetchone():
                return table
        return ""

    def mark(self) -> str:
        """The note of a move that filled this database and has not ended; empty where there is none."""
        row = self._conn.execute("select value from service where name=?", (MARK,)).fetchone()
        return str(row[0]) if row else ""

    def close(self) -> None:
        self._conn.close()


class SqliteSource(SqliteRows):
    """The file that a home leaves; who else would write into it waits, and is refused in the end."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with sqlite_errors(path):
            self._conn.execute("begin immediate")

    def check(self) -> None:
        """Nothing: nobody can take a file's lock away."""

    def put_aside(self, name: str) -> str:
        """Move the file, its automatic copy and the folder of its payloads into a folder beside them, where nobody can write
        into the file by mistake."""
        folder = self.path.parent / name
        with sqlite_errors(self.path):
            for table in MOVED_TABLES:
                for event in _EVENTS if table != "passage_fts" else ():  # virtual tables have no triggers
                    self._conn.execute(
                        f"create trigger if not exists moved_{table}_{event} before {event} on {table} begin "
                        "select raise(abort, 'the jobs of this home were moved to PostgreSQL'); end"
                    )
            self._conn.execute("commit")
        self.close()
        put_files_aside(self.path, folder)
        for name in ("spool", "backup"):
            with contextlib.suppress(FileNotFoundError):
                os.replace(self.path.parent / name, folder / name)
        put_on_disk(self.path.parent)
        return str(folder)


class SqliteTarget(SqliteRows):
    """A file that is built under another name, and put in its place as a whole."""

    def __init__(self, path: Path, aside: str) -> None:
        """`aside`: name of the folder beside `path` that takes what is in its place now."""
        self._place = path
        self._aside = path.parent / aside
        building = path.with_name(f"{path.name}.moving")
        for ending in FILE_ENDINGS:
            Path(f"{building}{ending}").unlink(missing_ok=True)
        with sqlite_errors(building):
            os.close(os.open(building, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            schema.migrate(building)
            super().__init__(building)
            # Of what is killed in the middle nothing is needed, and in the end all of it is flushed.
            self._conn.execute("pragma journal_mode=off")
            self._conn.execute("pragma synchronous=off")
            self._conn.execute("begin")
            self._triggers = self._conn.execute("select name, sql from sqlite_master where type='trigger'").fetchall()
            for name, _ in self._triggers:
                self._conn.execute(f"drop trigger {name}")
            for table in ONE_ROW_TABLES:
                self._conn.execute(f"delete from {table}")

    def write(self, table: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
        """Store the rows of a table, none of which is there."""
        names = [f'"{"data" if (table, name) == ("task", "job") else name}"' for name in columns]
        statement = f"insert into {table} ({', '.join(names)}) values ({','.join('?' * len(names))})"
        if table == "task":
            rows = _with_messages(rows, columns.index("job"))
        with sqlite_errors(self.path):
            self._conn.executemany(statement, rows)

    def set_highest_id(self, table: str, id: int) -> None:
        """The next id that is handed out is a higher one, where the table remembers those of deleted rows."""
        (definition,) = self._conn.execute("select sql from sqlite_master where name=?", (table,)).fetchone()
        if id and "autoincrement" in definition.lower():
            with sqlite_errors(self.path):
                if not self._conn.execute("update sqlite_sequence set seq=? where name=?", (id, table)).rowcount:
                    self._conn.execute("insert into sqlite_sequence values (?,?)", (table, id))

    def finish(self) -> None:
        """Triggers are as before."""
        with sqlite_errors(self.path):
            for _, definition in self._triggers:
                self._conn.execute(definition)

    def commit(self, mark: str) -> None:
        """Put the file in its place, flushed; one that is there goes aside."""
        with sqlite_errors(self.path):
            self._conn.execute("insert into service values (?,?)", (MARK, mark))
            self._conn.execute("commit")
            self._conn.execute("pragma journal_mode=wal")
            self.close()
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
            put_files_aside(self._place, self._aside)
            os.replace(self.path, self._place)
            put_on_disk(self._place.parent)

    def lacking_payloads(self) -> int | None:
        """Not known: they lie in the folder, where each was looked at."""
        return None

    def confirm(self) -> None:
        """The home works on this file: the note goes."""
        confirm_file(self._place)

    def close(self) -> None:
        """Leave it; without `commit` nothing has changed."""
        self._conn.close()


def confirm_file(path: Path) -> None:
    """The note of a move that filled a database goes."""
    with sqlite_errors(path), contextlib.closing(sqlite3.connect(path, timeout=schema.OPEN_TIMEOUT_S)) as conn, conn:
        conn.execute("delete from service where name=?", (MARK,))


def put_files_aside(path: Path, folder: Path) -> None:
    """Move a database's files, as far as there are any, into a folder."""
    for ending in FILE_ENDINGS:
        if Path(f"{path}{ending}").exists():
            folder.mkdir(mode=0o700, exist_ok=True)
            os.replace(f"{path}{ending}", folder / f"{path.name}{ending}")


@contextlib.contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """What SQLite or the disk refuses is said in one sentence."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise DiskFull(f"{path} cannot grow, as its disk is full: free some space and try again.") from error
        if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            raise DiskFull(f"{path} cannot be read or written ({error}): look after its disk.") from error
        if code == sqlite3.SQLITE_BUSY:
            raise BatchError(f"Another program holds {path}: end it and try again.") from error
        raise BatchError(f"{path} cannot be used ({error}): run `batch doctor`.") from error
    except OSError as error:
        raise DiskFull(f"{path} cannot be written ({error.strerror}): look after its disk.") from error


def _with_messages(rows: Iterable[Row], place: int) -> Iterator[tuple[Any, ...]]:
    """Rows of `task` with messages in the place of the jobs that they name."""
    for row in rows:
        yield (*row[:place], message_for(row[place]) if row[place] else b"", *row[place + 1 :])
