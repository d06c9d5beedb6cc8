"""A picture as the model reads it: runs of image tokens, and what the projector has made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import llama_cpp.mtmd_cpp as _bindings
import numpy as np

mtmd: Any = _bindings

Embedding = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(slots=True, eq=False)
class ImageEncoding:
    """One run of the projector: the pixels that go in, then the embeddings that came out."""

    sha256: str
    """Of the picture."""
    handle: int | None
    """mtmd's input chunk; its pixels are dropped once they are encoded, its layout stays."""
    n_tokens: int
    is_causal: bool = False
    """Whether the model attends to it as to text, so that its tokens may go into the KV in slices, and beside others'."""
    embedding: Embedding | None = None
    """(n_tokens * width of the model's input,), once encoded."""

    def __del__(self) -> None:
        if self.handle and mtmd is not None:
            mtmd.mtmd_input_chunk_free(self.handle)


@dataclass(slots=True, eq=False)
class ImageChunk:
    """A run of image tokens that only goes into the KV as a whole."""

    ident: int
    """Negative, the same for the same pixels: what stands in a token sequence for each of its tokens."""
    n_tokens: int
    n_pos: int
    encoding: ImageEncoding | None
    start: int = 0
    """Its first token among the encoding's."""

    @property
    def is_encoded(self) -> bool:
        """Whether its embeddings are there."""
        return self.encoding is not None and self.encoding.embedding is not None

    @property
    def rows(self) -> Embedding:
        """Its embeddings, (n_tokens, width), once encoded."""
        assert self.encoding is not None and self.encoding.embedding is not None
        return self.encoding.embedding.reshape(self.encoding.n_tokens, -1)[self.start : self.start + self.n_tokens]

    @property
    def shareable_rows(self) -> Embedding | None:
        """The same where they may go into the KV in one decode with those of other pictures; else None."""
        return self.rows if self.encoding is not None and self.encoding.is_causal else None

    def layout(self) -> ImageChunk:
        """The same tokens without their content: enough to remember what a KV sequence holds."""
        return ImageChunk(self.ident, self.n_tokens, self.n_pos, None)


@dataclass(slots=True, eq=False)
class TokenizedImage:
    """A picture as the model reads it: lists of text tokens, and image chunks, in order."""

    sha256: str
    items: list[list[int] | ImageChunk] = field(default_factory=list)
    pixel_bytes: int = 0
    """About how many bytes it takes until it is encoded."""

    @property
    def chunks(self) -> list[ImageChunk]:
        """Its image chunks."""
        return [item for item in self.items if isinstance(item, ImageChunk)]

    @property
    def n_tokens(self) -> int:
        """Tokens in all."""
        return sum(i.n_tokens if isinstance(i, ImageChunk) else len(i) for i in self.items)

    @property
    def is_encoded(self) -> bool:
        """Whether all chunks have their embeddings."""
        return all(chunk.is_encoded for chunk in self.chunks)

    @property
    def embedding_bytes(self) -> int:
        """Bytes that its embeddings take."""
        encodings = (chunk.encoding for chunk in self.chunks if chunk.start == 0)
        return sum(one.embedding.nbytes for one in encodings if one is not None and one.embedding is not None)
