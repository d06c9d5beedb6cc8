"""Embedding jobs: texts in, vectors out."""

from __future__ import annotations

import msgspec

EmbeddingInput = str | list[int | str]
"""A text, or a token array that may hold texts too."""


class EmbeddingPayload(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, tag="embed", tag_field="task"):
    """Embed texts. Exactly one of `inputs` and `blob` is set."""

    inputs: list[EmbeddingInput] | None = None
    """Texts or token arrays, at least one."""
    blob: str | None = None
    """sha256 of a spool file that holds such a list as JSON (large calls)."""
    truncate: bool = False
    """Cut what is too long, keeping the closing token; otherwise too long is ContextExceeded."""
    windows: bool = False
    """Split what is too long into overlapping windows, one vector each (inbox texts)."""
    query: bool = False
    """The texts are questions to search with: the model's query prefix goes before each."""
    dimensions: int | None = None
    """Leading dimensions to keep; None: all of the model's."""


class TextWindow(msgspec.Struct, frozen=True):
    """Which part of an input a vector stands for."""

    index: int
    """Of the input."""
    start: int
    """First character."""
    end: int
    """One past the last character."""


class EmbeddingResult(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Vectors: (count, dimensions) little-endian float32, row by row. Exactly one of `vectors` and `blob` is set."""

    count: int
    dimensions: int
    vectors: str | None = None
    """The bytes as base64."""
    blob: str | None = None
    """sha256 of a spool file with the bytes, for results above 64 KB."""
    tokens: list[int]
    """Tokens of each input with special tokens; a spooled result holds their sum alone, as one item."""
    windows: list[TextWindow] | None = None
    """One a vector, with EmbeddingPayload.windows."""
    ms: float
    """Milliseconds from start to result."""
