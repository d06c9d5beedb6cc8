"""A search index in a fresh database, filled by tests."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from batch.media.kind import MediaKind
from batch.queue.open_store import open_store
from batch.search.documents import IndexedContent, Moment
from batch.search.index.prepared_content import PreparedContent
from batch.search.index.reader import IndexReader
from batch.search.index.writer import IndexWriter
from batch.search.request import SearchRequest
from batch.search.result import SearchResult
from batch.search.searcher import QueryVector, Searcher

MODEL = "hashes"
DIMENSIONS = 64


def vector_of(text: str, dimensions: int = DIMENSIONS) -> np.ndarray:
    """A vector that knows words: texts that share words are near, others are not. (1, dimensions), of length 1."""
    total = np.zeros(dimensions)
    for word in text.lower().split():
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
        total += np.random.default_rng(seed).standard_normal(dimensions)
    return (total / max(float(np.linalg.norm(total)), 1e-12)).astype(np.float32)[None, :]


class SearchStage:
    """An index, and searches in it."""

    def __init__(self, database: Path | str, front: str = "") -> None:
        self.store = open_store(database, front=front)
        self.reader = IndexReader(self.store)
        self.writer = IndexWriter(self.store.search_tables, inbox=self.store.inbox_scope)
        self.searcher = Searcher()

    def put(self, path: str, text: str, *, embed: bool = True, windows: Sequence[tuple[int, int]] = (), **more: Any) -> None:
        """Index a text as that of a file."""
        spans = list(windows) or [(0, len(text))]
        vectors = np.vstack([vector_of(text[start:end]) for start, end in spans]) if embed else None
        moments = [Moment(*moment) for moment in more.pop("moments", ())]
        document = IndexedContent(
            content=more.pop("content", path),
            sha256=hashlib.sha256(text.encode()).hexdigest(),
            kind=more.pop("kind", MediaKind.TEXT),
            language=more.pop("language", None),
            model=more.pop("model", None),
            created=more.pop("created", 1000.0),
            text=text,
            moments=moments,
            windows=spans if embed else [],
            vectors=vectors,
            embedding_model=more.pop("embedding_model", MODEL),
        )
        paths = [path.encode(), *(also.encode() for also in more.pop("also", ()))]
        assert not more, more
        with self.store.transaction() as transaction:
            self.writer.put(transaction, PreparedContent(document), paths)

    def remove(self, path: str) -> None:
        """The file is gone."""
        with self.store.transaction() as transaction:
            self.writer.remove_source(transaction, path.encode())

    def search(self, query: str | None = None, **more: Any) -> SearchResult:
        """A search, whose query is embedded as the texts are."""
        degraded, model = more.pop("degraded", None), more.pop("query_model", MODEL)
        is_foreign = more.pop("is_foreign", False)
        request = SearchRequest.of(query=query, **more)
        vector = None
        if request.query is not None and degraded != "embedding_unavailable":
            vector = QueryVector(vector=vector_of(request.query.meaning()), model=model, is_foreign=is_foreign)
        return self.searcher.search(self.reader, request, vector, degraded)

    def sources(self, query: str | None = None, **more: Any) -> list[str]:
        """The files that a search finds, the best first."""
        return [hit.source for hit in self.search(query, **more).data]

    def count(self, table: str) -> int:
        return int(self.store.read(f"select count(*) from {table}")[0][0])
