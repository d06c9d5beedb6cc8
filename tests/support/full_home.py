"""A home with rows in every table of its database, whatever columns those have, and payloads in its spool."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from pathlib import Path
from typing import Any

from batch.database_address import FILE, IN_DATABASE, address_of
from batch.notifications.signing import SecretFiles
from batch.queue.messages import message_for
from batch.queue.open_store import open_store
from batch.queue.spool import Spool
from batch.queue.transfer.move import HomeMove, MovedHome
from batch.queue.transfer.row_copy import Report
from batch.queue.transfer.tables import MOVED_TABLES, ONE_ROW_TABLES
from batch.search.segmentation import index_text

LARGE = 1_700_000_000_123_456_789
_LARGE_COLUMNS = {"token", "mtime_ns", "ctime_ns", "inode", "bytes", "size", "input_tokens", "n"}
_SMALL_N_TABLES = ("passage",)
_SIGNS = ("plain", "tab\tline\nback\\slash 'quote' \"double\"", "é 漢字 e\u0301 \U0001f600", "")


def fill(home: Path, *, rows: int = 4, payload: bytes = b"payload") -> None:
    """Put rows into every table that a move takes along; the jobs wait in their queues."""
    path = home / ".batch" / "batch.db"
    open_store(path).close()
    spool = Spool(home / ".batch" / "spool")
    names = [spool.keep(payload * (number + 1)) for number in range(rows)]
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as conn:
        triggers = conn.execute("select name, sql from sqlite_master where type='trigger'").fetchall()
        conn.execute("begin")
        for name, _ in triggers:
            conn.execute(f"drop trigger {name}")
        for table in MOVED_TABLES:
            _fill_table(conn, table, 1 if table in ONE_ROW_TABLES else rows, names)
        conn.execute("update sqlite_sequence set seq=seq+100")  # the newest rows were deleted
        for _, definition in triggers:
            conn.execute(definition)
        conn.execute("commit")


def _fill_table(conn: sqlite3.Connection, table: str, rows: int, names: list[str]) -> None:
    conn.execute(f"delete from {table}")
    if table == "passage_fts":
        passages = conn.execute("select id, text from passage").fetchall()
        conn.executemany("insert into passage_fts (rowid, t) values (?,?)", [(id, index_text(text)) for id, text in passages])
        return
    columns = conn.execute(f"pragma table_info({table})").fetchall()
    for number in range(rows):
        row = {column[1]: _value(table, column, number) for column in columns}
        if "sha256" in row and table in ("blob", "stored_file", "upload_part"):
            row["sha256"] = names[number]
        marks = ",".join("?" * len(row))
        conn.execute(f"insert into {table} ({','.join(_quoted(row))}) values ({marks})", list(row.values()))


def _quoted(names: dict[str, Any]) -> list[str]:
    return [f'"{name}"' for name in names]


def _value(table: str, column: tuple[Any, ...], number: int) -> Any:
    _, name, type, is_required, _, key = column
    if name == "one":
        return 1
    if name == "front":
        return ""
    if (table, name) == ("task", "data"):
        return message_for(f"job{number}")
    if not is_required and not key and number == 2:
        return None
    match type.lower():
        case "integer" if name in _LARGE_COLUMNS and table not in _SMALL_N_TABLES:
            return LARGE + number
        case "integer":
            return 10 + number
        case "real":
            return 1764203302.123457 + number / 7
        case "blob":
            return bytes(range(256)) + bytes([number])
        case "text" if key or name in ("id", "key", "custom_id", "content", "conversation", "item", "event", "target", "api"):
            return f"{table}-{name}-{number}"
        case "text":
            return f"{name} {number} {_SIGNS[number % len(_SIGNS)]}"
    raise AssertionError((table, column))


def rows_of(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of the tables that a move takes along, and the highest ids that were handed out."""
    with contextlib.closing(sqlite3.connect(path)) as conn:
        tables = {table: "rowid, t" if table == "passage_fts" else "*" for table in MOVED_TABLES}
        held = {table: sorted(conn.execute(f"select {columns} from {table}"), key=repr) for table, columns in tables.items()}
        held["ids"] = sorted(conn.execute("select name, seq from sqlite_sequence"))
    return held


def payloads_of(folder: Path) -> dict[str, bytes]:
    """What lies in a spool folder, by the names; each is looked at."""
    held = {}
    for path in folder.glob("??/*"):
        held[path.name] = path.read_bytes()
        assert hashlib.sha256(held[path.name]).hexdigest() == path.name
    return held


def move_of(home: Path, report: Report = lambda label, count: None, payloads: str = IN_DATABASE) -> HomeMove:
    """A move of a home, made as the command makes it."""
    return HomeMove(
        home,
        address_of(home),
        inbox=home / "inbox",
        payloads=payloads,
        attempts=3,
        words=index_text,
        keep_secret=SecretFiles(home / ".batch" / "webhooks").keep,
        report=report,
    )


def move_to(home: Path, target: str, report: Report = lambda label, count: None) -> MovedHome:
    """Move a home to the address of a database, or back into its file, as the command does."""
    move = move_of(home, report)
    return move.to_sqlite() if target == FILE else move.to_postgres(target)
