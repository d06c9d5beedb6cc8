"""Reading the search index: the full-text list, and what hits are made of. Every method is one look at the database."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from batch.queue.full_text.search_tables import SearchTables
from batch.queue.selection.inbox_scope import InboxScope
from batch.search.documents import Moment, moments_from_json
from batch.search.index.tables import SHADOW_PREFIX
from batch.search.query_language import TextQuery
from batch.search.request import SearchFilter

MAX_RANKED_HITS = 10_000
"""Beyond so many contents the text list is the newest ones: ranking them all would take too long."""
MAX_TEXT_PASSAGES = 1000
"""Passages that the text list is made of: several may belong to one content."""
MAX_ALSO = 10


class ReadableStore(Protocol):
    """A store that can be read."""

    @property
    def search_tables(self) -> SearchTables: ...

    @property
    def inbox_scope(self) -> InboxScope: ...

    def read(self, sql: str, params: Sequence[Any] = (), /) -> list[Any]: ...


class IndexState(NamedTuple):
    """Tells one state of the index from the next."""

    generation: int
    """Counts rebuilds: passages of another generation have other ids."""
    last_vector: int
    """The highest passage with a vector."""
    last_removal: int
    is_rebuilding: bool = False
    """A new index is being made beside this one, or was and has been broken off."""


class TextMatches(msgspec.Struct, frozen=True):
    """What the full-text index found."""

    passages: list[tuple[int, int]]
    """(passage, entry), the best first."""
    total: int
    """Contents."""
    is_total_exact: bool


class EntryRow(NamedTuple):
    """A content as a hit shows it."""

    id: int
    kind: str
    language: str | None
    model: str | None
    created: float


class PassageRow(NamedTuple):
    """A passage as a hit shows it."""

    id: int
    entry: int
    text: str
    start: float | None
    end: float | None
    moments: list[Moment]


class StoredVector(NamedTuple):
    """A vector and what it can be filtered by."""

    passage: int
    entry: int
    kind: str
    language: str | None
    model: str | None
    created: float
    data: bytes


class IndexReader:
    """Asks one connection; not more than one thread at a time."""

    def __init__(self, rows: ReadableStore) -> None:
        self._rows = rows
        self._tables = rows.search_tables
        self._inbox = rows.inbox_scope

    def state(self) -> IndexState:
        """What the index is at by now."""
        row = self._rows.read(
            "select generation, (select coalesce(max(passage), 0) from vector), "
            "(select coalesce(max(id), 0) from passage_removed), "
            f"{self._tables.exists(f'{SHADOW_PREFIX}progress')} from search_meta"
        )[0]
        return IndexState(row[0], row[1], row[2], bool(row[3]))

    # -- the text list

    def text_matches(self, query: TextQuery, filter: SearchFilter) -> TextMatches:
        """Passages that hold all words of a query, of contents that hold none of its excluded words."""
        where, params = _condition(filter, self._inbox)
        if exclusion := self._exclusion(query):
            where += " and p.entry not in (select x.entry from passage x where x.id in "
            where += f"(select f.rowid from passage_fts f where {self._tables.condition('f')}))"
            params.append(exclusion)
        source = (
            "passage_fts f join passage p on p.id = f.rowid join entry e on e.id = p.entry "
            f"where {self._tables.condition('f')} and {self._inbox.own('e')}{where}"
        )
        match = self._tables.all_of([term.phrase() for term in query.required_terms])
        params = [match, *params]
        total = int(
            self._rows.read(
                f"select count(*) from (select distinct p.entry from {source} limit ?) as matching",
                [*params, MAX_RANKED_HITS + 1],
            )[0][0]
        )
        is_exact = total <= MAX_RANKED_HITS
        order, order_params = "f.rowid desc", list[str]()
        if is_exact:
            order, order_params = self._tables.ranking("f", match)
            order += ", e.created desc"
        rows = self._rows.read(
            f"select p.id, p.entry from {source} order by {order} limit ?", [*params, *order_params, MAX_TEXT_PASSAGES]
        )
        return TextMatches([(int(row[0]), int(row[1])) for row in rows], min(total, MAX_RANKED_HITS), is_exact)

    def excluded_entries(self, query: TextQuery) -> list[int]:
        """Contents that hold an excluded word of a query."""
        if not (exclusion := self._exclusion(query)):
            return []
        rows = self._rows.read(
            "select distinct entry from passage where id in "
            f"(select f.rowid from passage_fts f where {self._tables.condition('f')})",
            [exclusion],
        )
        return [int(row[0]) for row in rows]

    def _exclusion(self, query: TextQuery) -> str:
        """The query for what must not be there; empty where everything may."""
        return self._tables.any_of([term.phrase() for term in query.excluded_terms])

    def entries_below(self, folder: str) -> list[int]:
        """Contents that a file in a folder, or below it, holds."""
        rows = self._rows.read(
            f"select distinct entry from entry_source where {self._inbox.own()}path >= ? and path < ?", _folder_bounds(folder)
        )
        return [int(row[0]) for row in rows]

    # -- what hits show

    def entries(self, ids: Iterable[int]) -> dict[int, EntryRow]:
        """Contents by id."""
        rows = self._rows.read(
            "select id, kind, language, model, created from entry where id in (select cast(value as bigint) from json_each(?))",
            [json.dumps(list(ids))],
        )
        return {int(row[0]): EntryRow(*row) for row in rows}

    def sources_of(self, entry: int, folder: str | None = None) -> list[str]:
        """The files that hold a content, by name, at most `MAX_ALSO` and one; those below `folder` come first."""
        low, high = _folder_bounds(folder) if folder else (b"", b"")
        rows = self._rows.read(
            f"select path from entry_source where {self._inbox.own()}entry=? "
            "order by not (path >= ? and path < ?), path limit ?",
            [entry, low, high, MAX_ALSO + 1],
        )
        return [os.fsdecode(row[0]) for row in rows]

    def passages(self, ids: Iterable[int]) -> dict[int, PassageRow]:
        """Passages by id."""
        rows = self._rows.read(
            'select id, entry, text, start, "end", times from passage '
            "where id in (select cast(value as bigint) from json_each(?))",
            [json.dumps(list(ids))],
        )
        return {int(row[0]): PassageRow(row[0], row[1], row[2], row[3], row[4], moments_from_json(row[5])) for row in rows}

    # -- vectors

    def vectors_after(self, passage: int, model: str, limit: int) -> list[StoredVector]:
        """Vectors of a model with higher passages than `passage`, in their order."""
        rows = self._rows.read(
            "select v.passage, p.entry, e.kind, e.language, e.model, e.created, v.v from vector v "
            "join passage p on p.id = v.passage join entry e on e.id = p.entry "
            f"where {self._inbox.own('e')}v.passage > ? and v.model = ? order by v.passage limit ?",
            [passage, model, limit],
        )
        return [StoredVector(*row) for row in rows]

    def vectors_of(self, passages: Iterable[int]) -> list[tuple[int, bytes]]:
        """(passage, vector) of those passages that have one, in order of passage."""
        rows = self._rows.read(
            "select passage, v from vector where passage in (select cast(value as bigint) from json_each(?)) order by passage",
            [json.dumps(list(passages))],
        )
        return [(int(row[0]), row[1]) for row in rows]

    def removed_after(self, removal: int) -> list[int]:
        """Passages whose vectors went after a removal."""
        return [int(row[0]) for row in self._rows.read("select passage from passage_removed where id > ?", [removal])]

    def vector_models(self) -> set[str]:
        """The models that there are vectors of; one index step each."""
        rows = self._rows.read(
            "with recursive m(x) as (select min(model) from vector union all "
            "select (select min(model) from vector where model > x) from m where x is not null) "
            "select x from m where x is not null"
        )
        return {row[0] for row in rows}

    def dimensions_of(self, model: str) -> int | None:
        """How many dimensions the newest vector of a model has."""
        rows = self._rows.read("select length(v) from vector where model=? order by passage desc limit 1", [model])
        return int(rows[0][0]) // 2 if rows else None

    def entry_of(self, path: str) -> int | None:
        """The content that a file holds."""
        rows = self._rows.read(f"select entry from entry_source where {self._inbox.own()}path=?", [os.fsencode(path)])
        return int(rows[0][0]) if rows else None

    def entry_vectors(self, entry: int) -> list[tuple[str, bytes]]:
        """(model, vector) of each of a content's passages that has one."""
        rows = self._rows.read(
            "select v.model, v.v from passage p join vector v on v.passage = p.id where p.entry=? order by p.n", [entry]
        )
        return [(row[0], row[1]) for row in rows]


def _condition(filter: SearchFilter, inbox: InboxScope) -> tuple[str, list[Any]]:
    conditions, params = ["1=1"], list[Any]()
    if filter.kinds:
        conditions.append(f"e.kind in ({','.join('?' * len(filter.kinds))})")
        params += filter.kinds
    for column, value in (("language", filter.language), ("model", filter.model)):
        if value is not None:
            conditions.append(f"e.{column} = ?")
            params.append(value)
    if filter.since is not None:
        conditions.append("e.created >= ?")
        params.append(filter.since)
    if filter.until is not None:
        conditions.append("e.created <= ?")
        params.append(filter.until)
    if filter.folder is not None:
        conditions.append(f"e.id in (select entry from entry_source where {inbox.own()}path >= ? and path < ?)")
        params += _folder_bounds(filter.folder)
    return " and ".join(conditions), params


def _folder_bounds(folder: str) -> tuple[bytes, bytes]:
    """Between which two paths everything below a folder lies: "0" follows "/"."""
    return os.fsencode(f"{folder}/"), os.fsencode(f"{folder}0")
