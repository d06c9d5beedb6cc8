"""The vectors of one model in memory: their signs, what they can be filtered by, and, while they are few, themselves.

A query takes the candidates whose signs differ least from its own, reads their vectors and scores them exactly; up to
MAX_EXACT_VECTORS all are scored. At 768 dimensions a vector takes 125 bytes of memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batch.search.index.reader import IndexReader, IndexState, StoredVector
from batch.search.index.vectors import Matrix, from_stored, hamming_distances, signs_of
from batch.search.request import SearchFilter

MAX_EXACT_VECTORS = 20_000
MAX_EXACT_BYTES = 32 << 20
"""Memory for vectors themselves."""
CANDIDATES = 2000
"""That are scored exactly where there are more vectors."""
LOAD_ROWS = 5000
_SCORED_ROWS = 2048
"""float16 rows made float32 at a time: some megabytes."""

Mask = npt.NDArray[np.bool_]


class VectorHit(NamedTuple):
    """A passage and the cosine of its vector with the query's."""

    passage: int
    entry: int
    similarity: float


class _View(NamedTuple):
    """The vectors at one moment; rows are never changed, but for `is_there`."""

    passage: npt.NDArray[np.int64]
    entry: npt.NDArray[np.int64]
    kind: npt.NDArray[np.int16]
    language: npt.NDArray[np.int16]
    model: npt.NDArray[np.int16]
    created: npt.NDArray[np.float64]
    is_there: Mask
    signs: npt.NDArray[np.uint64]
    exact: npt.NDArray[np.float16] | None
    """The vectors themselves, while they are few."""

    def first(self, count: int) -> _View:
        """The first so many rows."""
        return _View(*(None if column is None else column[:count] for column in self))  # type: ignore[arg-type]

    def grown(self, rows: int) -> _View:
        """The same with room for so many rows."""
        return _View(*(None if column is None else _grown(column, rows) for column in self))  # type: ignore[arg-type]


def _grown(array: npt.NDArray[np.generic], rows: int) -> npt.NDArray[np.generic]:
    larger = np.zeros((rows, *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger


def _no_rows(dimensions: int) -> _View:
    codes = np.zeros(0, np.int16)
    numbers = np.zeros(0, np.int64)
    return _View(
        passage=numbers,
        entry=numbers,
        kind=codes,
        language=codes,
        model=codes,
        created=np.zeros(0, np.float64),
        is_there=np.zeros(0, np.bool_),
        signs=np.zeros((0, -(-dimensions // 64)), np.uint64),
        exact=np.zeros((0, dimensions), np.float16),
    )


class VectorIndex:
    """`follow` belongs to one thread at a time; `search` may run in several, beside it too."""

    def __init__(self, model: str, dimensions: int, state: IndexState) -> None:
        """Empty, for the vectors of a model in the generation of a state of the index."""
        self.model = model
        self.dimensions = dimensions
        self.generation = state.generation
        self._codes: dict[str, int] = {}
        """Numbers for the texts that vectors are filtered by."""
        self._room = _no_rows(dimensions)
        self._count = 0
        self._view = self._room
        self._last_passage = 0
        self._last_removal = state.last_removal

    def __len__(self) -> int:
        return int(np.count_nonzero(self._view.is_there))

    # -- keeping up

    def follow(self, reader: IndexReader, state: IndexState) -> None:
        """Take in what was added to the index and drop what was removed since the last call."""
        while self._last_passage < state.last_vector:
            rows = reader.vectors_after(self._last_passage, self.model, LOAD_ROWS)
            self._last_passage = rows[-1].passage if len(rows) == LOAD_ROWS else state.last_vector
            self._append([row for row in rows if len(row.data) == self.dimensions * 2])
        if state.last_removal > self._last_removal:
            self._drop(reader.removed_after(self._last_removal))
            self._last_removal = state.last_removal

    def _append(self, rows: list[StoredVector]) -> None:
        if not rows:
            return
        vectors = from_stored([row.data for row in rows], self.dimensions)
        end = self._count + len(rows)
        if end > MAX_EXACT_VECTORS or end * self.dimensions * 2 > MAX_EXACT_BYTES:
            self._room = self._room._replace(exact=None)
        if end > len(self._room.passage):
            self._room = self._room.grown(max(end, len(self._room.passage) * 9 // 8))
        new = slice(self._count, end)
        room = self._room
        room.passage[new] = [row.passage for row in rows]
        room.entry[new] = [row.entry for row in rows]
        room.kind[new] = [self._code(row.kind) for row in rows]
        room.language[new] = [self._code(row.language) for row in rows]
        room.model[new] = [self._code(row.model) for row in rows]
        room.created[new] = [row.created for row in rows]
        room.is_there[new] = True
        room.signs[new] = signs_of(vectors)
        if room.exact is not None:
            room.exact[new] = vectors
        self._count = end
        self._view = room.first(end)

    def _drop(self, passages: list[int]) -> None:
        passages_here = self._view.passage
        places = np.searchsorted(passages_here, passages)
        for passage, place in zip(passages, places, strict=True):
            if place < len(passages_here) and passages_here[place] == passage:
                self._view.is_there[place] = False

    def _code(self, text: str | None) -> int:
        return self._codes.setdefault(text or "", len(self._codes) % 32_000)

    # -- searching

    def search(
        self,
        reader: IndexReader,
        query: Matrix,
        filter: SearchFilter,
        *,
        entries: Iterable[int] | None,
        without: Iterable[int],
        limit: int,
    ) -> list[VectorHit]:
        """The nearest passages to a query of shape (1, dimensions), of at most `limit` contents, the nearest first.

        Only of contents that match the filter, that are among `entries` where that is given, and not among `without`.
        """
        view = self._view
        places = np.flatnonzero(self._mask(view, filter, entries, without))
        if not len(places):
            return []
        if view.exact is None and len(places) > CANDIDATES:
            signs = view.signs if len(places) == len(view.signs) else view.signs[places]
            distances = hamming_distances(signs, signs_of(query))
            places = places[np.argpartition(distances, CANDIDATES)[:CANDIDATES]]
        places, scores = self._scores(view, reader, places, query[0])
        hits: list[VectorHit] = []
        rows_seen: set[int] = set()
        for place in np.lexsort((-view.passage[places], -scores)):  # the newest first among equals
            entry = int(view.entry[places[place]])
            if entry not in rows_seen and len(rows_seen) == limit:
                break
            rows_seen.add(entry)
            hits.append(VectorHit(int(view.passage[places[place]]), entry, float(scores[place])))
        return hits

    def _mask(self, view: _View, filter: SearchFilter, entries: Iterable[int] | None, without: Iterable[int]) -> Mask:
        mask = view.is_there.copy()
        if filter.kinds:
            mask &= np.isin(view.kind, [self._codes.get(kind, -1) for kind in filter.kinds])
        for column, value in ((view.language, filter.language), (view.model, filter.model)):
            if value is not None:
                mask &= column == self._codes.get(value, -1)
        if filter.since is not None:
            mask &= view.created >= filter.since
        if filter.until is not None:
            mask &= view.created <= filter.until
        if entries is not None:
            mask &= np.isin(view.entry, np.fromiter(entries, np.int64))
        if len(left_out := np.fromiter(without, np.int64)):
            mask &= ~np.isin(view.entry, left_out)
        return mask

    def _scores(
        self, view: _View, reader: IndexReader, places: npt.NDArray[np.intp], query: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
        """(places that have a vector still, the exact cosine of each)."""
        if view.exact is not None:
            parts = [places[at : at + _SCORED_ROWS] for at in range(0, len(places), _SCORED_ROWS)]
            return places, np.concatenate([view.exact[part].astype(np.float32) @ query for part in parts])
        places = np.sort(places)  # as passages ascend, so do the rows that come back
        rows = reader.vectors_of(view.passage[places].tolist())
        places = places[np.isin(view.passage[places], [passage for passage, _ in rows])]
        return places, from_stored([data for _, data in rows], self.dimensions) @ query

    def sample_similarities(self, reader: IndexReader, pairs: int) -> npt.NDArray[np.float32]:
        """Cosines of up to so many random pairs of vectors of different contents."""
        view, draw = self._view, np.random.default_rng(1)
        places = np.flatnonzero(view.is_there)
        places = np.sort(draw.choice(places, min(len(places), 2 * pairs), replace=False))
        rows = reader.vectors_of(view.passage[places].tolist())
        places = draw.permutation(len(rows))
        half = len(rows) // 2
        left, right = places[:half], places[half : 2 * half]
        vectors = from_stored([data for _, data in rows], self.dimensions)
        entries = view.entry[np.searchsorted(view.passage, [passage for passage, _ in rows])]
        differ = entries[left] != entries[right]
        cosines: npt.NDArray[np.float32] = np.einsum("ij,ij->i", vectors[left], vectors[right])
        distinct: npt.NDArray[np.float32] = cosines[differ]
        return distinct
