"""One search from the two lists to a page of hits. Blocking, and without a model: the query's vector is given."""

from __future__ import annotations

import base64
import os
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
import numpy as np
from msgspec import UNSET

from batch.errors import BadRequest, NotFound, Unavailable
from batch.media.kind import MediaKind
from batch.search.documents import Moment, moment_at
from batch.search.highlights import MAX_SHOWN_CHARS, FoldedText, excerpt
from batch.search.index.reader import EntryRow, IndexReader, IndexState, PassageRow, TextMatches
from batch.search.index.vector_index import VectorHit, VectorIndex
from batch.search.index.vectors import Matrix, from_stored
from batch.search.query_language import Term
from batch.search.ranking import FOREIGN_SCRIPT_WEIGHT, LIST_LENGTH, RankedEntry, best_first, join_lists
from batch.search.request import SearchMode, SearchRequest
from batch.search.result import Degradation, HitMoment, Ranks, SearchHit, SearchResult, TextTotal, TookMs
from batch.search.similarity_floor import SimilarityFloor

MAX_MOMENTS = 5


class QueryVector(msgspec.Struct, frozen=True, kw_only=True):
    """A query as the embedding model sees it."""

    vector: Matrix
    """(1, dimensions), of length 1."""
    model: str
    usual_floor: float = 0.0
    """What is known of the model's cosines."""
    is_foreign: bool = False
    """The query is in a script that the model does not know."""


class Searcher:
    """Holds the vectors in memory; `search` may run in several threads, each with a reader of its own."""

    def __init__(self) -> None:
        self._index: VectorIndex | None = None
        self._floor = SimilarityFloor()
        self._following = threading.Lock()

    def search(
        self, reader: IndexReader, request: SearchRequest, query: QueryVector | None, degraded: Degradation | None = None
    ) -> SearchResult:
        """A page of hits. `query` is None where there is no vector to search with.

        Raises NotFound for a `like` that the index does not hold, Unavailable where the vector list is all that was asked
        for and cannot be had.
        """
        started_at = time.perf_counter()
        state = reader.state()
        left_out: list[int] = []
        if request.like is not None:
            entry, query = self._query_like(reader, request.like)
            left_out.append(entry)
        matches: TextMatches | None = None
        if request.query is not None:
            left_out += reader.excluded_entries(request.query)
            if request.mode is not SearchMode.VECTOR:
                matches = reader.text_matches(request.query, request.filter)
        nearest: Sequence[VectorHit] = ()
        if query is not None and (request.mode is not SearchMode.TEXT or request.like is not None):
            nearest, is_whole = self._nearest(reader, state, request, query, left_out)
            if not is_whole:
                degraded = degraded or "other_model"
        if state.is_rebuilding:
            degraded = degraded or "reindexing"
        joined = join_lists(matches, nearest)
        rows = reader.entries(joined)
        weight = FOREIGN_SCRIPT_WEIGHT if query is not None and query.is_foreign else 1.0
        ranked = best_first(joined.values(), {id: row.created for id, row in rows.items()}, weight)
        page = ranked[request.offset : request.offset + request.limit]
        terms = request.query.required_terms if request.query else ()
        return SearchResult(
            mode=request.mode,
            degraded=degraded,
            took_ms=TookMs(0.0, round((time.perf_counter() - started_at) * 1000, 1)),
            total=TextTotal(matches.total if matches else 0, "eq" if matches is None or matches.is_total_exact else "gte"),
            has_more=len(ranked) > request.offset + request.limit,
            data=_hits(reader, page, rows, terms, request.filter.folder),
        )

    # -- the vector list

    def _nearest(
        self, reader: IndexReader, state: IndexState, request: SearchRequest, query: QueryVector, left_out: list[int]
    ) -> tuple[list[VectorHit], bool]:
        """The nearest passages above the floor, and whether all vectors are of the query's model."""
        index = self._vectors(reader, state, query.model, query.vector.shape[1])
        is_whole = reader.vector_models() <= {query.model}
        if not len(index):
            if request.mode is SearchMode.VECTOR and not is_whole:
                raise Unavailable(
                    f"No text has a vector of {query.model}, the model that is loaded: search with mode text instead."
                )
            return [], is_whole
        folder = request.filter.folder
        hits = index.search(
            reader,
            query.vector,
            request.filter,
            entries=None if folder is None else reader.entries_below(folder),
            without=left_out,
            limit=LIST_LENGTH,
        )
        floor = request.min_similarity
        if floor is None:
            floor = self._floor.value(index, reader, query.usual_floor)
        return [hit for hit in hits if hit.similarity >= floor], is_whole

    def _vectors(self, reader: IndexReader, state: IndexState, model: str, dimensions: int | None = None) -> VectorIndex:
        with self._following:
            index = self._index
            is_other = index is None or index.model != model or index.generation != state.generation
            if index is None or is_other or dimensions not in (None, index.dimensions):
                if dimensions is None:
                    dimensions = reader.dimensions_of(model) or 0
                index = self._index = VectorIndex(model, dimensions, state)
                self._floor = SimilarityFloor()
            index.follow(reader, state)
            return index

    def _query_like(self, reader: IndexReader, path: str) -> tuple[int, QueryVector]:
        """(the content of a file, the mean of its vectors as a query)."""
        entry = reader.entry_of(path)
        if entry is None:
            raise NotFound(f'"like" names {path}, which is not in the index.', param="like")
        stored = reader.entry_vectors(entry)
        if not stored:
            raise NotFound(f'"like" names {path}, which has no vectors.', param="like")
        model = stored[-1][0]
        if self._index is not None and self._index.model != model:
            message = f'"like" names {path}, whose vectors are of {model}, a model that is not loaded any more.'
            raise BadRequest(f"{message} Search with words instead.", param="like")
        vectors = from_stored([data for _, data in stored], len(stored[0][1]) // 2)
        mean = vectors.mean(axis=0, keepdims=True)
        return entry, QueryVector(vector=mean / max(float(np.linalg.norm(mean)), 1e-12), model=model)


# -- hits


def _hits(
    reader: IndexReader,
    page: Sequence[tuple[float, RankedEntry]],
    rows: dict[int, EntryRow],
    terms: Sequence[Term],
    folder: str | None,
) -> list[SearchHit]:
    shown_passages = [passage for _, entry in page for passage in _shown_passages(entry)]
    passages = reader.passages(shown_passages)
    hits = []
    for score, entry in page:
        entry_passages = [passages[passage] for passage in _shown_passages(entry) if passage in passages]
        row = rows[entry.entry]
        if entry_passages and (sources := reader.sources_of(row.id, folder)):
            hits.append(_hit(score, entry, row, sources, entry_passages, terms))
    return hits


def _shown_passages(entry: RankedEntry) -> list[int]:
    """The passage that stands for a content, then others, each once."""
    return list(dict.fromkeys([*entry.text_passages, *entry.vector_passages]))[: MAX_MOMENTS + 1]


def _hit(
    score: float,
    entry: RankedEntry,
    row: EntryRow,
    sources: Sequence[str],
    passages: Sequence[PassageRow],
    terms: Sequence[Term],
) -> SearchHit:
    first = passages[0]
    main_excerpt = excerpt(first.text, terms)
    moment = moment_at(first.moments, main_excerpt.char) if main_excerpt.highlights else None
    start, end = (moment.start, moment.end) if moment else (first.start, first.end)
    source = _readable(sources[0])
    return SearchHit(
        source=source,
        source_bytes=UNSET if source == sources[0] else base64.b64encode(os.fsencode(sources[0])).decode(),
        also=[_readable(path) for path in sources[1:]],
        kind=MediaKind(row.kind),
        score=round(score, 6),
        rank=Ranks(entry.text_rank, entry.vector_rank),
        similarity=None if entry.similarity is None else round(entry.similarity, 4),
        text=main_excerpt.text,
        highlights=main_excerpt.highlights,
        start=start,
        end=end,
        moments=_moments(passages, terms, start),
        language=row.language,
        model=row.model,
        created=datetime.fromtimestamp(row.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    )


def _readable(path: str) -> str:
    """A path as valid Unicode: bytes that are no UTF-8 stand as \\xNN, as in the outbox."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _moments(passages: Sequence[PassageRow], terms: Sequence[Term], shown_start: float | None) -> list[HitMoment]:
    """What else of a content matches: the other places of a recording in which the words are said, or other passages."""
    moments: list[HitMoment] = []
    starts_seen = {shown_start}
    for passage in passages:
        if passage.moments:
            for moment, text in _spoken_moments(passage, terms):
                if moment.start not in starts_seen:
                    starts_seen.add(moment.start)
                    moments.append(HitMoment(moment.start, moment.end, text))
        elif passage is not passages[0]:
            moments.append(HitMoment(None, None, excerpt(passage.text, terms).text))
    return moments[:MAX_MOMENTS]


def _spoken_moments(passage: PassageRow, terms: Sequence[Term]) -> list[tuple[Moment, str]]:
    """The moments of a passage in which a query's words are said; where none is, the passage as one."""
    spans = FoldedText(passage.text).find(terms)
    if not spans:
        whole = Moment(0, passage.start or 0.0, passage.end or 0.0)
        return [(whole, excerpt(passage.text, ()).text)]
    moments: dict[int, tuple[Moment, str]] = {}
    for span_start, _ in spans:
        moment = moment_at(passage.moments, span_start)
        if moment is not None and moment.char not in moments:
            following = next((other.char for other in passage.moments if other.char > moment.char), len(passage.text))
            text = passage.text[moment.char : following].strip()
            moments[moment.char] = (moment, text if len(text) <= MAX_SHOWN_CHARS else excerpt(text, terms).text)
    return list(moments.values())
