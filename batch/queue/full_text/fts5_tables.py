"""The search index's tables in SQLite: FTS5 for the words, definitions read from the database for a second index."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from batch.queue.full_text.search_tables import Phrase, Statements

_EVENTS = {"insert": "new", "update": "new", "delete": "old"}
_INDEX_GENERATION = re.compile(r"_g\d+\Z")


class Fts5Tables:
    """SearchTables of SQLite."""

    bytes_type = "blob"

    def column(self, words: str) -> str:
        """The words themselves: FTS5 cuts them at spaces and signs."""
        return words

    def condition(self, alias: str) -> str:
        """SQL: whether a row of the full-text table matches a query, which is its one parameter."""
        return f"{alias}.passage_fts match ?"

    def all_of(self, phrases: Sequence[Phrase]) -> str:
        """A query for rows with all of the phrases; empty without any."""
        return " AND ".join(map(_expression, phrases))

    def any_of(self, phrases: Sequence[Phrase]) -> str:
        """A query for rows with one of the phrases; empty without any."""
        return " OR ".join(map(_expression, phrases))

    def ranking(self, alias: str, query: str) -> tuple[str, list[str]]:
        """BM25 knows the query by its condition."""
        return f"bm25({alias}.passage_fts)", []

    def exists(self, table: str) -> str:
        """SQL: whether there is a table."""
        return f"exists (select 1 from sqlite_master where name='{table}')"

    def create_beside(
        self, statements: Statements, live: Sequence[str], beside: Sequence[str], generation: int, id_gap: int
    ) -> None:
        """Make empty tables like others, with their indexes; ids begin `id_gap` behind those of the others."""
        for table, copy in zip(live, beside, strict=True):
            (definition,) = _definitions(statements, "table", table, own=True)
            statements.execute(re.sub(rf'(?i)^(create (?:virtual )?table) "?{table}"?', rf"\1 {copy}", definition))
            for index in _definitions(statements, "index", table):
                statements.execute(_renamed_index(index, table, copy, generation))
            if "autoincrement" in definition.lower():
                row = statements.execute("select seq from sqlite_sequence where name=?", (table,)).fetchone()
                statements.execute("insert into sqlite_sequence values (?,?)", (copy, (row[0] if row else 0) + id_gap))

    def note_changes(self, statements: Statements, table: str, notes: str, prefix: str) -> None:
        """From now on every `path` that changes in a table is written into another."""
        statements.execute(f"create table {notes} (path blob primary key) without rowid")
        for event, row_name in _EVENTS.items():
            statements.execute(
                f"create trigger {prefix}{event} after {event} on {table} begin "
                f"insert or ignore into {notes} values ({row_name}.path); end"
            )

    def discard(self, statements: Statements, table: str, tables: Sequence[str], prefix: str) -> None:
        """Drop the tables, and note a table's changes no more."""
        for event in _EVENTS:
            statements.execute(f"drop trigger if exists {prefix}{event}")
        for name in tables:
            statements.execute(f"drop table if exists {name}")

    def replace(self, statements: Statements, live: Sequence[str], beside: Sequence[str], vector: str) -> None:
        """Put tables in the place of others, with the trigger that notes which vectors go."""
        triggers = _definitions(statements, "trigger", vector)
        for table in live:
            statements.execute(f"drop table {table}")
        for copy, table in zip(beside, live, strict=True):
            statements.execute(f"alter table {copy} rename to {table}")
        for trigger in triggers:
            statements.execute(trigger)

    def check(self, statements: Statements, full_text: str) -> None:
        """Have FTS5 look through its own table. Raises DamagedDatabase, as the transaction ends."""
        statements.execute(f"insert into {full_text}({full_text}) values ('integrity-check')")


def _expression(phrase: Phrase) -> str:
    """What FTS5 looks for: words in a row, quoted."""
    return '"' + " ".join(phrase.words.split()).replace('"', '""') + '"' + (" *" if phrase.is_prefix else "")


def _definitions(statements: Statements, type: str, table: str, *, own: bool = False) -> list[str]:
    """How a table, or each index or trigger of it, was made."""
    rows: list[Any] = statements.execute(
        f"select sql from sqlite_master where type=? and tbl_name=? and sql is not null {'and name=tbl_name' if own else ''}",
        (type, table),
    ).fetchall()
    return [str(row[0]) for row in rows]


def _renamed_index(definition: str, live: str, shadow: str, generation: int) -> str:
    """The same index for the other table: names of indexes cannot be changed, so each generation has its own."""
    matched = re.match(r'(?is)^create index "?(\w+)"? on "?\w+"?\s*(.*)$', definition)
    if matched is None:
        raise ValueError(f"the index {definition!r} of {live} is of a kind that is not known here")
    return f"create index {_INDEX_GENERATION.sub('', matched[1])}_g{generation} on {shadow} {matched[2]}"
