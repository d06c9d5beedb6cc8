"""How many files are in which state; kept apart from the ledger, as `batch status` has no time to load more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from batch.queue.selection.inbox_scope import InboxScope
from batch.queue.store import EmptyDatabase


class FileCounts(NamedTuple):
    """Files by state; one whose results are being written counts as waiting."""

    waiting: int = 0
    done: int = 0
    failed: int = 0
    linked: int = 0


class ReadableDatabase(Protocol):
    """What `count_files` needs of a store."""

    @property
    def inbox_scope(self) -> InboxScope: ...

    def read(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]: ...


def count_files(database: ReadableDatabase) -> FileCounts:
    """Files by state, from counters: costs the same however many there are."""
    try:
        own = database.inbox_scope.own()
        tally = dict(database.read(f"select state, n from file_tally where {own}n <> 0"))
    except EmptyDatabase:  # a home in which no service has run yet has no ledger
        tally = {}
    return FileCounts(
        waiting=tally.get("waiting", 0) + tally.get("writing", 0),
        done=tally.get("done", 0),
        failed=tally.get("failed", 0),
        linked=tally.get("linked", 0),
    )
