"""A sequence of tokens, pictures included: a prompt, or what stands in a KV sequence."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from batch.workers.chat.images.image_chunk import ImageChunk, TokenizedImage

_FIRST_COMPARED_IDS = 8
_MAX_COMPARED_IDS = 512
"""Ids that are compared at a time: few at first, as most conversations share little more than what opens a turn."""


class TokenSequence:
    """Token ids in order. A picture's tokens all carry its chunk's negative id, so that equal ids are equal content."""

    __slots__ = ("chunks", "ids")

    def __init__(self, ids: Iterable[int] = (), chunks: Iterable[tuple[int, ImageChunk]] = ()) -> None:
        self.ids = list(ids)
        self.chunks = list(chunks)
        """(index of the chunk's first token, chunk), ascending."""

    def __len__(self) -> int:
        return len(self.ids)

    def append_tokens(self, tokens: Iterable[int]) -> None:
        """Add text tokens."""
        self.ids.extend(tokens)

    def append_chunk(self, chunk: ImageChunk) -> None:
        """Add the tokens of one image chunk."""
        self.chunks.append((len(self.ids), chunk))
        self.ids.extend([chunk.ident] * chunk.n_tokens)

    def append_image(self, image: TokenizedImage) -> None:
        """Add a whole picture: its chunks and the text tokens around them."""
        for item in image.items:
            if isinstance(item, ImageChunk):
                self.append_chunk(item)
            else:
                self.append_tokens(item)

    def position(self, index: int) -> int:
        """The KV position of the token at `index`: the same number, but for models whose pictures take fewer positions
        than tokens."""
        return index + sum(c.n_pos - c.n_tokens for start, c in self.chunks if start < index)

    def chunk_at(self, index: int) -> ImageChunk | None:
        """The image chunk whose first token is at `index`; None where there is none."""
        return next((c for start, c in self.chunks if start == index), None)

    def text_end(self, index: int) -> int:
        """The end of the run of text tokens that holds `index`."""
        return next((start for start, _ in self.chunks if start > index), len(self.ids))

    def uncut(self, index: int) -> int:
        """The largest number of tokens up to `index` that does not end inside an image chunk."""
        if not self.chunks:
            return index
        return next((s for s, c in self.chunks if s < index < s + c.n_tokens), index)

    def truncate(self, n: int) -> None:
        """Keep the first n tokens."""
        if n < len(self.ids):
            del self.ids[n:]
            self.chunks = [(s, c) for s, c in self.chunks if s < n]

    def copy(self) -> TokenSequence:
        """An independent copy; the chunks are shared."""
        return TokenSequence(self.ids, self.chunks)

    def last_text_tokens(self, limit: int) -> list[int]:
        """The last text tokens in order, at most `limit`."""
        return list(islice((t for t in reversed(self.ids) if t >= 0), limit))[::-1]

    def common_prefix(self, other: TokenSequence) -> int:
        """How many first tokens are the same in both, ending inside no picture."""
        a, b = self.ids, other.ids
        n = min(len(a), len(b))
        at, size = 0, _FIRST_COMPARED_IDS
        while at < n and a[at : at + size] == b[at : at + size]:
            at += size
            size = min(2 * size, _MAX_COMPARED_IDS)
        at = min(at, n)
        # Slices are compared in C: halving them finds where the two part in a few comparisons.
        while size := size // 2:
            if at + size <= n and a[at : at + size] == b[at : at + size]:
                at += size
        return min(self.uncut(at), other.uncut(at))

    def common_prefixes(self, others: Iterable[TokenSequence]) -> list[int]:
        """`common_prefix` with each: of many that share as much with this one, most are known by two comparisons."""
        lengths, longest = [], 0
        for other in others:
            parts_there = other.ids[longest : longest + 1] != self.ids[longest : longest + 1]
            is_known = parts_there and other.ids[:longest] == self.ids[:longest]
            lengths.append(longest if is_known else self.common_prefix(other))
            longest = max(longest, lengths[-1])
        return lengths
