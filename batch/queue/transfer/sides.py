"""What a move needs of the database that it leaves and of the one that it fills."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from batch.errors import BatchError, Conflict

Row = tuple[Any, ...]
Words = Callable[[str], str]
"""Gives a passage's words as the search index holds them."""


class TargetInUse(Conflict):
    """The database that a home is to move into holds something already."""

    sentence = "The database holds jobs or files already: name an empty one."


class CopyDiffers(BatchError):
    """What arrived is not what was sent."""

    sentence = "The copy is not what was copied: nothing was moved."


class RowReader(Protocol):
    """A database whose rows are read."""

    def columns(self, table: str) -> list[str]:
        """The columns that are copied, as far as this database has them."""
        ...

    def rows(self, table: str, columns: Sequence[str]) -> Iterator[Row]:
        """All rows, one at a time."""
        ...

    def as_stored(self, table: str, columns: Sequence[str]) -> Callable[[Row], Row]:
        """What makes of a row of the other database what this one gives back once it is stored."""
        ...


class RowSource(RowReader, Protocol):
    """The database that a home leaves: nobody else writes into it meanwhile."""

    def highest_id(self, table: str) -> int:
        """The highest id that the database has handed out; 0 where none."""
        ...

    def payload_names(self) -> Iterator[str]:
        """The sha256 of every payload that a row refers to, once each."""
        ...

    def check(self) -> None:
        """Raise StoreAway where others could have written into it, as the connection that kept them from it is gone."""
        ...

    def put_aside(self, name: str) -> str:
        """Nobody works on these rows any more, and they are kept under another name; where, for people."""
        ...

    def close(self) -> None: ...


class RowTarget(RowReader, Protocol):
    """The database that gets rows; nobody sees them before `commit`."""

    def write(self, table: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
        """Store the rows of a table, none of which is there."""
        ...

    def set_highest_id(self, table: str, id: int) -> None:
        """The next id that is handed out is a higher one."""
        ...

    def finish(self) -> None:
        """Compute what follows from the rows."""
        ...

    def lacking_payloads(self) -> int | None:
        """How many payloads rows refer to that are not there; None where the rows do not tell."""
        ...

    def commit(self, mark: str) -> None:
        """All rows are there from now on, with a note that says whose copy this is."""
        ...

    def confirm(self) -> None:
        """The home works on this database: the note goes."""
        ...

    def close(self) -> None:
        """Leave it; without `commit` nothing has changed."""
        ...


def payload_pages(page_after: Callable[[str], Sequence[str]]) -> Iterator[str]:
    """Names in their order, asked for a page at a time."""
    last = ""
    while page := page_after(last):
        yield from page
        last = page[-1]


PAGE_OF_PAYLOADS = "select distinct sha256 from blob where sha256 > {} order by sha256 limit 1000"
