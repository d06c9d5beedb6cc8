"""What a search gives: the structs that HTTP, the command line and the page show."""

from __future__ import annotations

import base64
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from batch.media.kind import MediaKind
from batch.search.request import SearchMode

Degradation = Literal["embedding_unavailable", "other_model", "reindexing"]
"""Why a search had only a part of what it asked for: no model to embed the query with; vectors of another model; an index
that is being made anew."""


class Ranks(msgspec.Struct, frozen=True):
    """Places in the two lists that are joined, from 1; None: not in it."""

    text: int | None
    vector: int | None


class HitMoment(msgspec.Struct, frozen=True):
    """A further passage of a content that matches. Seconds are None for what is no recording."""

    start: float | None
    end: float | None
    text: str


class SearchHit(msgspec.Struct, frozen=True, kw_only=True):
    """A content that was found."""

    object: Literal["search.hit"] = "search.hit"
    source: str
    """Its file's path below the inbox; bytes that are no UTF-8 stand as \\xNN."""
    source_bytes: str | UnsetType = UNSET
    """The path's exact bytes in base64, where it is no UTF-8."""
    also: list[str]
    """Other files with the same content."""
    kind: MediaKind
    score: float
    rank: Ranks
    similarity: float | None
    """Cosine of the passage's vector with the query's."""
    text: str
    highlights: list[tuple[int, int]]
    """Characters (code points) of `text`: first, and one past the last."""
    start: float | None
    end: float | None
    """Where in the recording, in seconds."""
    moments: list[HitMoment]
    language: str | None
    model: str | None
    created: str
    """ISO 8601, UTC."""

    def source_path(self) -> bytes:
        """The file's path below the inbox, as the system knows it."""
        return base64.b64decode(self.source_bytes) if self.source_bytes is not UNSET else self.source.encode()


class TextTotal(msgspec.Struct, frozen=True):
    """How many contents the full-text index found."""

    text: int
    relation: Literal["eq", "gte"]


class TookMs(msgspec.Struct, frozen=True):
    """Milliseconds."""

    embed: float
    search: float


class SearchResult(msgspec.Struct, frozen=True, kw_only=True):
    """A page of hits, the best first."""

    object: Literal["list"] = "list"
    mode: SearchMode
    degraded: Degradation | None
    took_ms: TookMs
    total: TextTotal
    has_more: bool
    data: list[SearchHit]
