"""What of the search index's tables depends on the database: full-text expressions, and a second index beside the first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol


class Phrase(NamedTuple):
    """Words in a row."""

    words: str
    """Cut and folded as the index holds them, a space between two."""
    is_prefix: bool = False
    """The last of them is only the beginning of one."""


class Statements(Protocol):
    """A transaction under way."""

    def execute(self, sql: str, params: Sequence[Any] = (), /) -> Any: ...


class SearchTables(Protocol):
    """A store's own. Tables are named by their callers; the full-text one has the columns `rowid` and `t`."""

    bytes_type: str
    """What a column of bytes is declared as."""

    def column(self, words: str) -> str:
        """What stands in `t` for a text's words."""
        ...

    def condition(self, alias: str) -> str:
        """SQL: whether a row of the full-text table matches a query, which is its one parameter."""
        ...

    def all_of(self, phrases: Sequence[Phrase]) -> str:
        """A query for rows with all of the phrases; empty without any."""
        ...

    def any_of(self, phrases: Sequence[Phrase]) -> str:
        """A query for rows with one of the phrases; empty without any."""
        ...

    def ranking(self, alias: str, query: str) -> tuple[str, list[str]]:
        """What to sort matching rows by, the best first, and its parameters."""
        ...

    def exists(self, table: str) -> str:
        """SQL: whether there is a table of a name that is no one's to choose."""
        ...

    def create_beside(
        self, statements: Statements, live: Sequence[str], beside: Sequence[str], generation: int, id_gap: int
    ) -> None:
        """Make empty tables like others, with their indexes; ids begin `id_gap` behind those of the others."""
        ...

    def note_changes(self, statements: Statements, table: str, notes: str, prefix: str) -> None:
        """From now on every `path` that changes in a table is written into another."""
        ...

    def discard(self, statements: Statements, table: str, tables: Sequence[str], prefix: str) -> None:
        """Drop the tables, and note a table's changes no more."""
        ...

    def replace(self, statements: Statements, live: Sequence[str], beside: Sequence[str], vector: str) -> None:
        """Put tables in the place of others, with the trigger that notes which vectors go."""
        ...

    def check(self, statements: Statements, full_text: str) -> None:
        """Look whether the full-text table contradicts itself. Raises DamagedDatabase, as the transaction ends."""
        ...
