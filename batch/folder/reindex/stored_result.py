"""A result as it lies in the outbox, read again for the search index."""

from __future__ import annotations

import base64
import os
from datetime import datetime
from functools import cached_property

import msgspec
import numpy as np

from batch.errors import BatchError
from batch.folder.ledger.row_decoding import parameters_of
from batch.folder.ledger.rows import ContentParameters
from batch.folder.outbox.result_document import VERSION
from batch.folder.pipeline import EMBEDDING
from batch.media.kind import MediaKind
from batch.search.documents import MAX_PASSAGES, IndexedContent, Moment, content_key
from batch.search.index.vectors import Matrix


class UnreadableResult(BatchError):
    """A file of the outbox that holds no result."""


class StoredWindow(msgspec.Struct, frozen=True):
    """Characters of the text that a vector stands for."""

    start: int
    end: int


class StoredEmbedding(msgspec.Struct, frozen=True):
    """The vectors of a result; each is made into numbers only when it is wanted, as they may be many."""

    model: str | None = None
    windows: list[StoredWindow] = []
    vectors: list[msgspec.Raw] = []


class StoredSegment(msgspec.Struct, frozen=True):
    """A stretch of speech; times in seconds."""

    start: float
    end: float
    text: str


class StoredResult(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The keys of NAME.json that the index needs."""

    version: int
    source: str
    source_bytes: str | None = None
    sha256: str
    size: int = 0
    """Bytes of the source."""
    kind: MediaKind
    jobs: dict[str, str]
    created: str | None = None
    finished: str | None = None
    linked: bool = False
    model: str | None = None
    parameters: msgspec.Raw
    text: str
    language: str | None = None
    segments: list[StoredSegment] | None = None
    embedding: StoredEmbedding | None = None

    @property
    def path(self) -> bytes:
        """The source's path below the inbox."""
        return base64.b64decode(self.source_bytes) if self.source_bytes else os.fsencode(self.source)

    @cached_property
    def content(self) -> str:
        """What the index calls the content."""
        return content_key(self.sha256, self.kind, msgspec.json.encode(self.requested_parameters))

    @cached_property
    def created_at(self) -> float:
        """Unix seconds."""
        return _seconds(self.created)

    @property
    def finished_at(self) -> float:
        """Unix seconds."""
        return _seconds(self.finished)

    @cached_property
    def requested_parameters(self) -> ContentParameters:
        """What was asked of the content."""
        return parameters_of(self.kind, bytes(self.parameters).decode())

    def indexed_content(self, embedding: tuple[str, list[tuple[int, int]], Matrix] | None) -> IndexedContent:
        """What goes into the index, with vectors of (model, windows, vectors)."""
        model, windows, vectors = embedding or ("", [], None)
        return IndexedContent(
            content=self.content,
            sha256=self.sha256,
            kind=self.kind,
            language=self.language or None,
            model=None if next(iter(self.jobs), EMBEDDING) == EMBEDDING else self.model,
            created=self.created_at,
            text=self.text,
            moments=self._moments(),
            windows=windows,
            vectors=vectors,
            embedding_model=model,
        )

    def vectors(self) -> tuple[str, list[tuple[int, int]], Matrix] | None:
        """(model, windows, vectors) as they stand in the file, so many as the index takes; None where it has none."""
        stored = self.embedding
        if stored is None or not stored.model or not stored.vectors or len(stored.vectors) != len(stored.windows):
            return None
        try:
            matrix = np.array([_VECTOR.decode(row) for row in stored.vectors[:MAX_PASSAGES]], np.float32)
        except ValueError:  # a number that is none, or rows of several lengths
            return None
        if not matrix.size or not np.isfinite(matrix).all():
            return None
        return stored.model, [(window.start, window.end) for window in stored.windows[:MAX_PASSAGES]], matrix

    def _moments(self) -> list[Moment]:
        """Where each segment stands in the text, which is made of them in order."""
        moments, place = [], 0
        for segment in self.segments or []:
            start = self.text.find(segment.text, place)
            if start >= 0:
                moments.append(Moment(start, segment.start, segment.end))
                place = start + len(segment.text)
        return moments


_VECTOR = msgspec.json.Decoder(list[float])
_RESULT = msgspec.json.Decoder(StoredResult)


def parse_result(data: bytes) -> StoredResult:
    """The result in a file's bytes. Raises UnreadableResult."""
    try:
        result = _RESULT.decode(data)
        if result.version != VERSION:
            raise UnreadableResult(f"it has version {result.version} of the format, not {VERSION}.")
        _ = result.content, result.created_at, result.finished_at
        if not result.path or b"\0" in result.path:
            raise UnreadableResult("its source is no path.")
        return result
    except (ValueError, RecursionError) as error:
        raise UnreadableResult(f"it is no result of batch: {str(error)[:200]}.") from None


def _seconds(iso: str | None) -> float:
    return datetime.fromisoformat(iso).timestamp() if iso else 0.0
