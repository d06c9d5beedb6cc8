"""The search index made anew from the outbox: what lies there is what can be found."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from batch import __version__
from batch.folder.reindex.embedding_queue import EmbeddingQueue
from batch.folder.reindex.outbox_walk import MAX_RESULT_BYTES, read_result, result_paths
from batch.folder.reindex.stored_result import StoredResult, UnreadableResult, parse_result
from batch.queue.store import Store
from batch.search.index.prepared_content import PreparedContent
from batch.search.index.shadow_index import ShadowIndex, SourceOfContent
from batch.search.index.vectors import Matrix

MAX_FILES_AT_ONCE = 500
MAX_BYTES_AT_ONCE = 32 << 20
"""Of the texts and vectors that are in memory at a time."""
MAX_EMBEDDED_AT_ONCE = 64
"""Jobs of new vectors that wait in the queue together."""
MAX_NAMED_PROBLEMS = 20

Vectors = tuple[str, list[tuple[int, int]], Matrix]
"""(model, windows, a vector each)"""


class RebuildSummary(msgspec.Struct, kw_only=True):
    """What a rebuild came to. Of one that went on with an earlier one, the rest is counted."""

    files: int = 0
    embedded: int = 0
    """Files whose text got new vectors."""
    without_vectors: int = 0
    """Files whose text should have got vectors, and has none."""
    problems: list[str] = msgspec.field(default_factory=list)
    """A sentence each on files of the outbox that were left out, so many as are named."""
    left_out: int = 0
    went_on: bool = False
    """It took up a rebuild that had been broken off."""


class _Read(NamedTuple):
    """A result that is to go into the index with the next transaction."""

    result: StoredResult
    vectors: Vectors | None
    wants_vectors: bool


class Rebuild:
    """Blocking; one at a time. Killed at any point, the old index answers and the next rebuild goes on."""

    def __init__(
        self,
        store: Store,
        outbox: str,
        *,
        loaded_model: str = "",
        embedding: EmbeddingQueue | None = None,
        report: Callable[[int], None] = lambda files: None,
    ) -> None:
        """`loaded_model`: whose vectors are preferred. `embedding`: makes that model's vectors where there are none.
        `report` is told how many files are done."""
        self._shadow = ShadowIndex(store)
        self._outbox = outbox
        self._loaded_model = loaded_model
        self._embedding = embedding
        self._report = report
        self._summary = RebuildSummary()
        self._waiting: list[_Read] = []
        self._bytes = 0
        self._vectors_needed = 0

    def run(self) -> RebuildSummary:
        """Make the index and put it in the place of the old one."""
        model = self._loaded_model if self._embedding else ""
        cursor = self._shadow.begin(f"{__version__} unicode {unicodedata.unidata_version} {model}{self._shadow.inbox_id}")
        self._summary.went_on = cursor is not None
        path = after = None if cursor is None else os.fsdecode(cursor)
        for path in result_paths(self._outbox, after):
            self._read(path)
            is_full = len(self._waiting) >= MAX_FILES_AT_ONCE or self._bytes >= MAX_BYTES_AT_ONCE
            if is_full or self._vectors_needed >= MAX_EMBEDDED_AT_ONCE:
                self._write(path)
        if path is not None:
            self._write(path)
        self._shadow.swap()
        return self._summary

    def _read(self, path: str) -> None:
        try:
            data = read_result(self._outbox, path)
            if data is None:
                raise UnreadableResult(f"it is larger than {MAX_RESULT_BYTES:,} bytes.")
            result = parse_result(data)
        except FileNotFoundError:  # it was taken away meanwhile
            return
        except (OSError, UnreadableResult) as error:
            self._summary.left_out += 1
            if len(self._summary.problems) < MAX_NAMED_PROBLEMS:
                reason = error.message if isinstance(error, UnreadableResult) else f"it cannot be read: {error.strerror}."
                self._summary.problems.append(f"{path} of the outbox is left out: {reason}")
            return
        vectors = self._best_vectors(result)
        is_other = vectors is None or vectors[0] != self._loaded_model
        wants_vectors = self._embedding is not None and is_other and bool(result.text.strip()) and _is_embedded(result)
        self._waiting.append(_Read(result, vectors, wants_vectors))
        self._bytes += len(result.text) + (0 if vectors is None else vectors[2].nbytes)
        self._vectors_needed += wants_vectors

    def _best_vectors(self, result: StoredResult) -> Vectors | None:
        """The loaded model's, from the outbox or as an earlier rebuild made them; else what there is."""
        stored = result.vectors()
        if stored is not None and self._loaded_model in ("", stored[0]):
            return stored
        live = self._shadow.live_vectors(result.content)
        if live is not None and all(end <= len(result.text) for _, end in live.windows):
            return live
        return stored

    def _write(self, cursor: str) -> None:
        new_vectors: dict[int, Vectors | None] = {}
        if self._embedding is not None and self._vectors_needed:
            places = [place for place, read in enumerate(self._waiting) if read.wants_vectors]
            texts = [(self._waiting[place].result.source, self._waiting[place].result.text) for place in places]
            for place, embedded in zip(places, self._embedding.embed(texts), strict=True):
                new_vectors[place] = None if embedded is None else (self._loaded_model, *embedded)
                self._summary.embedded += embedded is not None
        sources = []
        for place, (result, vectors, _) in enumerate(self._waiting):
            vectors = new_vectors.get(place) or vectors
            is_known = self._shadow.knows(result.content)
            self._summary.without_vectors += vectors is None and _is_embedded(result) and bool(result.text.strip())
            prepared = None if is_known else PreparedContent(result.indexed_content(vectors))
            sources.append(SourceOfContent(result.path, result.content, prepared, result.created_at))
        self._shadow.add(sources, os.fsencode(cursor))
        self._summary.files += len(sources)
        self._waiting, self._bytes, self._vectors_needed = [], 0, 0
        self._report(self._summary.files)


def _is_embedded(result: StoredResult) -> bool:
    """Whether vectors were wanted of a result: captions and transcripts may do without."""
    return result.embedding is not None
