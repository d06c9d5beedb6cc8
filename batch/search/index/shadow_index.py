"""A second index that is made beside the one that answers, and takes its place in one transaction.

Killed at any point, the old index answers, and `begin` goes on where the rebuild was. What changes in the old index meanwhile
is noted by triggers, path by path, and carried over before the swap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from batch.queue.full_text.search_tables import Statements
from batch.queue.selection.inbox_scope import InboxScope
from batch.queue.store import Store, Transaction
from batch.search.index.prepared_content import PreparedContent
from batch.search.index.tables import LIVE, SHADOW, SHADOW_PREFIX
from batch.search.index.vectors import Matrix
from batch.search.index.writer import IndexWriter

CHANGES_AT_ONCE = 200
"""Paths carried over in one transaction."""
_ID_GAP = 1 << 32
"""Ids of the new index begin so far behind the old one's, so that a search across the swap misses a passage rather than taking
it for another."""
_PROGRESS, _CHANGE = f"{SHADOW_PREFIX}progress", f"{SHADOW_PREFIX}change"


class SourceOfContent(NamedTuple):
    """What a file puts into the index: a content, or the name of one that is there already."""

    path: bytes
    content: str
    prepared: PreparedContent | None
    created: float


class LiveVectors(NamedTuple):
    """The vectors that the old index has of a content."""

    model: str
    windows: list[tuple[int, int]]
    matrix: Matrix


class ShadowIndex:
    """One rebuild at a time; every method is one transaction, or a few short ones."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tables = store.search_tables
        self._inbox = store.inbox_scope
        self._writer = IndexWriter(self._tables, SHADOW, self._inbox)

    @property
    def inbox_id(self) -> str:
        """Whose results it is made of; empty where the database is one home's."""
        return self._inbox.inbox or ""

    def begin(self, identity: str) -> bytes | None:
        """Make the empty tables, or go on with those of a rebuild that was broken off and had the same identity.

        Returns the cursor that `add` wrote last; None for a new one.
        """
        with self._store.transaction() as transaction:
            if self._is_begun(transaction):
                row = transaction.execute(f"select identity, cursor from {_PROGRESS}").fetchone()
                if row is not None and row[0] == identity:
                    return None if row[1] is None else bytes(row[1])
                self._discard(transaction)
            self._create(transaction, identity)
            return None

    def knows(self, content: str) -> bool:
        """Whether a content is in the new index."""
        return bool(self._store.read(f"select 1 from {SHADOW.entry} where {self._inbox.own()}content=?", (content,)))

    def live_vectors(self, content: str) -> LiveVectors | None:
        """What the old index has; None where a passage of the content has no vector."""
        rows = self._store.read(
            f"select p.char_start, length(p.text), v.model, v.v from {LIVE.entry} e join {LIVE.passage} p on p.entry = e.id "
            f"left join {LIVE.vector} v on v.passage = p.id where {self._inbox.own('e')}e.content=? order by p.n",
            (content,),
        )
        if not rows or any(row[2] != rows[0][2] or row[3] is None for row in rows):
            return None
        matrix = np.frombuffer(b"".join(row[3] for row in rows), "<f2").reshape(len(rows), -1).astype(np.float32)
        return LiveVectors(rows[0][2], [(row[0], row[0] + row[1]) for row in rows], matrix)

    def add(self, sources: Sequence[SourceOfContent], cursor: bytes) -> None:
        """Take in what files hold, and note that the rebuild is as far as `cursor`."""
        with self._store.transaction() as transaction:
            for source in sources:
                if source.prepared is not None:
                    self._writer.put(transaction, source.prepared, [source.path])
                else:
                    self._writer.add_source(transaction, source.content, source.path)
                    transaction.execute(
                        f"update {SHADOW.entry} set created=case when created < ? then created else ? end "
                        f"where {self._inbox.own()}content=?",
                        (source.created, source.created, source.content),
                    )
            transaction.execute(f"update {_PROGRESS} set cursor=?", (cursor,))

    def follow_changes(self) -> int:
        """Carry over some of what changed in the old index meanwhile; how many paths."""
        with self._store.transaction() as transaction:
            return self._follow_changes(transaction)

    def swap(self) -> None:
        """Put the new index in the place of the old one."""
        while self.follow_changes() == CHANGES_AT_ONCE:
            pass
        with self._store.transaction(durable=True) as transaction:
            while self._follow_changes(transaction):
                pass
            self._tables.replace(transaction, LIVE, SHADOW, LIVE.vector)
            transaction.execute("delete from passage_removed")
            transaction.execute("update search_meta set generation = generation + 1")
            transaction.execute(f"drop table {_CHANGE}")
            transaction.execute(f"drop table {_PROGRESS}")

    def discard(self) -> None:
        """Leave a rebuild for good."""
        with self._store.transaction() as transaction:
            if self._is_begun(transaction):
                self._discard(transaction)

    # -- inside a transaction

    def _create(self, transaction: Transaction, identity: str) -> None:
        generation = int(transaction.execute("select generation from search_meta").fetchone()[0]) + 1
        self._tables.create_beside(transaction, LIVE, SHADOW, generation, _ID_GAP)
        self._tables.note_changes(transaction, LIVE.entry_source, _CHANGE, SHADOW_PREFIX)
        if self._inbox.inbox is not None:  # what other homes have in it is carried over as it is
            others = f"select front, path from {LIVE.entry_source} where not ({self._inbox.own()}true)"
            transaction.execute(f"insert into {_CHANGE} {others}")
        transaction.execute(f"create table {_PROGRESS} (identity text not null, cursor {self._tables.bytes_type})")
        transaction.execute(f"insert into {_PROGRESS} (identity) values (?)", (identity,))

    def _discard(self, transaction: Transaction) -> None:
        self._tables.discard(transaction, LIVE.entry_source, (*SHADOW, _CHANGE, _PROGRESS), SHADOW_PREFIX)

    def _is_begun(self, transaction: Transaction) -> bool:
        return bool(transaction.execute(f"select {self._tables.exists(_PROGRESS)}").fetchone()[0])

    def _follow_changes(self, transaction: Transaction) -> int:
        columns = f"{self._inbox.columns}path"
        rows = transaction.execute(
            f"delete from {_CHANGE} where ({columns}) in (select {columns} from {_CHANGE} limit ?) returning {columns}",
            (CHANGES_AT_ONCE,),
        ).fetchall()
        copies: dict[int, int] = {}
        for *front, path in rows:
            inbox = InboxScope(front[0]) if front else self._inbox
            writer = IndexWriter(self._tables, SHADOW, inbox)
            row = transaction.execute(f"select entry from {LIVE.entry_source} where {inbox.own()}path=?", (path,)).fetchone()
            if row is None:
                writer.remove_source(transaction, path)
                continue
            if row[0] not in copies:
                copies[row[0]] = self._copy_entry(transaction, row[0], inbox)
            writer.set_source(transaction, path, copies[row[0]])
        return len(rows)

    def _copy_entry(self, transaction: Transaction, live: int, inbox: InboxScope) -> int:
        """Put an entry of the old index, as it is now, in the place of what the new one has of its content."""
        (content,) = transaction.execute(f"select content from {LIVE.entry} where id=?", (live,)).fetchone()
        row = transaction.execute(f"select id from {SHADOW.entry} where {inbox.own()}content=?", (content,)).fetchone()
        if row is not None:
            self._writer.delete_entry(transaction, row[0])
        columns = f"{inbox.columns}content, sha256, kind, language, model, created"
        entry = _inserted(
            transaction, f"insert into {SHADOW.entry} ({columns}) select {columns} from {LIVE.entry} where id=?", live
        )
        if row is not None:
            transaction.execute(f"update {SHADOW.entry_source} set entry=? where entry=?", (entry, row[0]))
        passages = transaction.execute(f"select id from {LIVE.passage} where entry=? order by n", (live,)).fetchall()
        columns = 'n, text, char_start, start, "end", times'
        for (old,) in passages:
            passage = _inserted(
                transaction,
                f"insert into {SHADOW.passage} (entry, {columns}) select {entry}, {columns} from {LIVE.passage} where id=?",
                old,
            )
            transaction.execute(
                f"insert into {SHADOW.passage_fts} (rowid, t) select ?, t from {LIVE.passage_fts} where rowid=?", (passage, old)
            )
            transaction.execute(
                f"insert into {SHADOW.vector} select ?, model, v from {LIVE.vector} where passage=?", (passage, old)
            )
        return entry


def _inserted(statements: Statements, sql: str, id: int) -> int:
    return int(statements.execute(sql + " returning id", (id,)).fetchone()[0])
