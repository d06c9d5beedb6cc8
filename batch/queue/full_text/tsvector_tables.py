"""The search index's tables in Postgres: a tsvector made of words as they are cut here, never by a dictionary of its own."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

from batch.queue.full_text.search_tables import Phrase, Statements

MAX_WORD_BYTES = 2000
"""Postgres takes words of up to 2,046 bytes."""
MAX_VECTOR_BYTES = 900_000
"""Of all words of a text with their places: Postgres takes up to 1 MiB."""
_MAX_PLACE = 16_383
_ACCENTS = range(0x300, 0x370)


class TsvectorTables:
    """SearchTables of Postgres."""

    bytes_type = "bytea"

    def column(self, words: str) -> str:
        """The text's words with their places, as a tsvector is written."""
        parts: list[str] = []
        total = 0
        for place, word in enumerate(_words(words), 1):
            part = f"'{_cut(word)}':{min(place, _MAX_PLACE)}"
            total += len(part.encode())
            if total > MAX_VECTOR_BYTES:
                break
            parts.append(part)
        return " ".join(parts)

    def condition(self, alias: str) -> str:
        """SQL: whether a row of the full-text table matches a query, which is its one parameter."""
        return f"{alias}.t @@ cast(? as tsquery)"

    def all_of(self, phrases: Sequence[Phrase]) -> str:
        """A query for rows with all of the phrases; empty without any."""
        return " & ".join(map(_expression, phrases))

    def any_of(self, phrases: Sequence[Phrase]) -> str:
        """A query for rows with one of the phrases; empty without any."""
        return " | ".join(map(_expression, phrases))

    def ranking(self, alias: str, query: str) -> tuple[str, list[str]]:
        """How often the words stand there, for the text's length."""
        return f"ts_rank({alias}.t, cast(? as tsquery), 1) desc", [query]

    def exists(self, table: str) -> str:
        """SQL: whether there is a table."""
        return f"to_regclass('{table}') is not null"

    def create_beside(
        self, statements: Statements, live: Sequence[str], beside: Sequence[str], generation: int, id_gap: int
    ) -> None:
        """Make empty tables like others, with their indexes; ids begin `id_gap` behind those of the others."""
        for table, copy in zip(live, beside, strict=True):
            statements.execute(f"create table {copy} (like {table} including all)")
            has_ids = statements.execute(
                "select 1 from information_schema.columns where table_schema = current_schema() and table_name=? "
                "and column_name='id' and is_identity='YES'",
                (table,),
            ).fetchone()
            if has_ids:
                statements.execute(
                    f"select setval(pg_get_serial_sequence('{copy}', 'id'), "
                    f"nextval(pg_get_serial_sequence('{table}', 'id')) + ?)",
                    (id_gap,),
                )

    def note_changes(self, statements: Statements, table: str, notes: str, prefix: str) -> None:
        """From now on every `path` that changes in a table is written into another, with the inbox's id."""
        statements.execute(f"create table {notes} (front word not null, path bytea not null, primary key (front, path))")
        statements.execute(
            f"create trigger {prefix}note after insert or update or delete on {table} for each row "
            f"execute function note_changed_path('{notes}')"
        )

    def discard(self, statements: Statements, table: str, tables: Sequence[str], prefix: str) -> None:
        """Drop the tables, and note a table's changes no more."""
        statements.execute(f"drop trigger if exists {prefix}note on {table}")
        for name in tables:
            statements.execute(f"drop table if exists {name}")

    def replace(self, statements: Statements, live: Sequence[str], beside: Sequence[str], vector: str) -> None:
        """Put tables in the place of others, with the trigger that notes which vectors go."""
        for table in live:
            statements.execute(f"drop table {table}")
        for copy, table in zip(beside, live, strict=True):
            statements.execute(f"alter table {copy} rename to {table}")
        statements.execute(
            f"create trigger vector_delete after delete on {vector} for each row execute function vector_deleted()"
        )

    def check(self, statements: Statements, full_text: str) -> None:
        """Nothing: Postgres keeps an index and its table together."""


def _expression(phrase: Phrase) -> str:
    """Words in a row, quoted: nothing in them is a sign of the query's own."""
    words = [f"'{_cut(word)}'" for word in _words(phrase.words)]
    if phrase.is_prefix and words:
        words[-1] += ":*"
    return "(" + " <-> ".join(words) + ")" if words else "''"


def _words(text: str) -> Iterator[str]:
    """Letters, digits, marks and private signs in a row, without accents: what SQLite's tokenizer takes for words too."""
    word: list[str] = []
    for sign in unicodedata.normalize("NFD", text):
        category = unicodedata.category(sign)
        if category[0] in "LNM" or category == "Co":
            if ord(sign) not in _ACCENTS:
                word.append(sign)
        elif word:
            yield unicodedata.normalize("NFC", "".join(word))
            word.clear()
    if word:
        yield unicodedata.normalize("NFC", "".join(word))


def _cut(word: str) -> str:
    return word if len(word) * 4 <= MAX_WORD_BYTES else word.encode()[:MAX_WORD_BYTES].decode("utf-8", "ignore")
