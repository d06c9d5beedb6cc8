"""A prompt, and what a KV sequence holds: ids cell by cell, image cells included."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from batch.workers.chat.vision import Chunk, Picture

_BLOCK = 512


class Cells:
    """Token ids in order; a picture's cells carry its chunk's negative id, so that equal ids are equal content."""

    __slots__ = ("chunks", "ids")

    def __init__(self, ids: Iterable[int] = (), chunks: Iterable[tuple[int, Chunk]] = ()) -> None:
        self.ids = list(ids)
        self.chunks = list(chunks)
        """(index of the first cell, chunk), ascending."""

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, tokens: Iterable[int]) -> None:
        self.ids.extend(tokens)

    def add_chunk(self, chunk: Chunk) -> None:
        self.chunks.append((len(self.ids), chunk))
        self.ids.extend([chunk.ident] * chunk.n_tokens)

    def add_picture(self, picture: Picture) -> None:
        for item in picture.items:
            if isinstance(item, Chunk):
                self.add_chunk(item)
            else:
                self.add(item)

    def position(self, index: int) -> int:
        """The KV position of a cell: its index, but for models whose pictures take fewer positions than cells."""
        return index + sum(c.n_pos - c.n_tokens for start, c in self.chunks if start < index)

    def chunk_at(self, index: int) -> Chunk | None:
        return next((c for start, c in self.chunks if start == index), None)

    def text_end(self, index: int) -> int:
        """Where the run of text that holds `index` ends."""
        return next((start for start, _ in self.chunks if start > index), len(self.ids))

    def whole(self, index: int) -> int:
        """The largest number of cells up to `index` that cuts no picture."""
        return next((s for s, c in self.chunks if s < index < s + c.n_tokens), index)

    def cut(self, n: int) -> None:
        """Keep the first n cells."""
        if n < len(self.ids):
            del self.ids[n:]
            self.chunks = [(s, c) for s, c in self.chunks if s < n]

    def copy(self) -> Cells:
        return Cells(self.ids, self.chunks)

    def tokens(self, last: int) -> list[int]:
        """The last text tokens, at most `last`."""
        return list(islice((t for t in reversed(self.ids) if t >= 0), last))[::-1]

    def common(self, other: Cells) -> int:
        """How many first cells are the same in both, cutting no picture."""
        a, b = self.ids, other.ids
        n = min(len(a), len(b))
        at = 0
        while at < n and a[at : at + _BLOCK] == b[at : at + _BLOCK]:
            at += _BLOCK
        at = min(at, n)
        while at < n and a[at] == b[at]:
            at += 1
        return min(self.whole(at), other.whole(at))
