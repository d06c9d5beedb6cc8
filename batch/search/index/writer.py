"""Writing the search index: what a result puts into it, and what goes with the last of its files.

Statements join a transaction that the client has begun, so that a result and its place in the index stand together.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from batch.queue.full_text.search_tables import SearchTables, Statements
from batch.queue.selection.inbox_scope import WHOLE_DATABASE, InboxScope
from batch.search.documents import IndexedContent
from batch.search.index.tables import LIVE, IndexTables

if TYPE_CHECKING:
    from batch.search.index.prepared_content import PreparedContent


class IndexWriter:
    """Every method is a part of one transaction."""

    def __init__(self, search_tables: SearchTables, tables: IndexTables = LIVE, inbox: InboxScope = WHOLE_DATABASE) -> None:
        """`search_tables`, `inbox`: of the store that the transactions belong to."""
        self._inbox = inbox
        self._tables = tables
        self._search_tables = search_tables

    def put(self, statements: Statements, content: PreparedContent, paths: Iterable[bytes]) -> None:
        """Take in a content, in place of what was known of it, and the files that hold it from now on."""
        document = content.document
        row = statements.execute(
            f"select id from {self._tables.entry} where {self._inbox.own()}content=?", (document.content,)
        ).fetchone()
        if row is not None:
            self.delete_entry(statements, row[0])
        if content.is_empty:
            if row is not None:
                statements.execute(f"delete from {self._tables.entry_source} where entry=?", row)
            for path in paths:
                self.remove_source(statements, path)
            return
        entry = self._insert(statements, document)
        if row is not None:
            statements.execute(f"update {self._tables.entry_source} set entry=? where entry=?", (entry, row[0]))
        self._insert_passages(statements, entry, content)
        for path in paths:
            self.set_source(statements, path, entry)

    def add_source(self, statements: Statements, content: str, path: bytes) -> None:
        """A file holds a content that is known already, and nothing else any more; it holds nothing where the index does not
        have the content."""
        row = statements.execute(
            f"select id from {self._tables.entry} where {self._inbox.own()}content=?", (content,)
        ).fetchone()
        if row is not None:
            self.set_source(statements, path, row[0])
        else:
            self.remove_source(statements, path)

    def remove_source(self, statements: Statements, path: bytes) -> None:
        """A file does not hold what it held; the content goes with its last file."""
        row = statements.execute(
            f"delete from {self._tables.entry_source} where {self._inbox.own()}path=? returning entry", (path,)
        ).fetchone()
        if row is not None:
            self._delete_unless_held(statements, row[0])

    def set_source(self, statements: Statements, path: bytes, entry: int) -> None:
        """A file holds the content of an entry from now on."""
        row = statements.execute(
            f"select entry from {self._tables.entry_source} where {self._inbox.own()}path=?", (path,)
        ).fetchone()
        if row is not None and row[0] == entry:
            return
        statements.execute(
            f"insert into {self._tables.entry_source} ({self._inbox.columns}path, entry) values ({self._inbox.values}?,?) "
            f"on conflict ({self._inbox.columns}path) do update set entry=excluded.entry",
            (path, entry),
        )
        if row is not None:
            self._delete_unless_held(statements, row[0])

    def _insert(self, statements: Statements, document: IndexedContent) -> int:
        row = statements.execute(
            f"insert into {self._tables.entry} ({self._inbox.columns}content, sha256, kind, language, model, created) "
            f"values ({self._inbox.values}?,?,?,?,?,?) returning id",
            (document.content, document.sha256, str(document.kind), document.language, document.model, document.created),
        ).fetchone()
        return int(row[0])

    def _insert_passages(self, statements: Statements, entry: int, content: PreparedContent) -> None:
        for number, (passage, text, moments) in enumerate(content.passages):
            (id,) = statements.execute(
                f'insert into {self._tables.passage} (entry, n, text, char_start, start, "end", times) '
                "values (?,?,?,?,?,?,?) returning id",
                (entry, number, passage.text, passage.char_start, passage.start, passage.end, moments),
            ).fetchone()
            statements.execute(
                f"insert into {self._tables.passage_fts} (rowid, t) values (?,?)", (id, self._search_tables.column(text))
            )
            if content.vectors:
                statements.execute(
                    f"insert into {self._tables.vector} values (?,?,?)",
                    (id, content.document.embedding_model, content.vectors[number]),
                )

    def _delete_unless_held(self, statements: Statements, entry: int) -> None:
        if statements.execute(f"select 1 from {self._tables.entry_source} where entry=? limit 1", (entry,)).fetchone() is None:
            self.delete_entry(statements, entry)

    def delete_entry(self, statements: Statements, entry: int) -> None:
        """Take an entry out with all its passages; its files keep its number, until they get another."""
        self._delete_passages(statements, entry)
        statements.execute(f"delete from {self._tables.entry} where id=?", (entry,))

    def _delete_passages(self, statements: Statements, entry: int) -> None:
        passages = f"(select id from {self._tables.passage} where entry=?)"
        statements.execute(f"delete from {self._tables.passage_fts} where rowid in {passages}", (entry,))
        statements.execute(f"delete from {self._tables.vector} where passage in {passages}", (entry,))
        statements.execute(f"delete from {self._tables.passage} where entry=?", (entry,))
