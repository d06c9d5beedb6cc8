"""What a file's result puts into the search index."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from batch.folder.ledger.rows import Content, search_key
from batch.folder.pipeline import EMBEDDING, page_of, result_of, text_of
from batch.folder.result_text import pages_text, text_in, vector_bytes
from batch.payloads.embedding import EmbeddingResult
from batch.payloads.speech import TranscriptionResult
from batch.queue.jobs import Job
from batch.queue.spool import Spool
from batch.search.documents import IndexedContent, Moment
from batch.search.index.prepared_content import PreparedContent
from batch.search.index.vectors import Matrix

logger = logging.getLogger("batch.folder")


def search_entry(content: Content, jobs: Mapping[str, Job], embedding_model: str, spool: Spool) -> PreparedContent | None:
    """The entry of a content whose steps so far are done; `jobs` are theirs by step, in order.

    None where it cannot be made: a result matters more than its place in the index.
    """
    try:
        return PreparedContent(_indexed_content(content, jobs, embedding_model, spool))
    except Exception:
        logger.exception("content %s cannot be taken into the search index", content.sha256)
        return None


def _indexed_content(content: Content, jobs: Mapping[str, Job], embedding_model: str, spool: Spool) -> IndexedContent:
    main_step, main = next(iter(jobs.items()))
    result = result_of(main)
    language: str | None = None
    moments: list[Moment] = []
    match result:
        case TranscriptionResult():
            text, language, moments = text_of(result), result.language or None, _moments(result)
        case EmbeddingResult():
            text = text_in(main, spool)
        case _:
            text = pages_text(jobs) if page_of(main_step) is not None else text_of(result)
    windows: list[tuple[int, int]] = []
    vectors: Matrix | None = None
    if EMBEDDING in jobs and isinstance(embedded := result_of(jobs[EMBEDDING]), EmbeddingResult):
        windows = [(window.start, window.end) for window in embedded.windows or []] or [(0, len(text))]
        vectors = _vectors(embedded, spool)
    return IndexedContent(
        content=search_key(content),
        sha256=content.sha256,
        kind=content.kind,
        language=language,
        model=None if main_step == EMBEDDING else content.models.get(main_step) or None,
        created=main.created_at,
        text=text,
        moments=moments,
        windows=windows,
        vectors=vectors,
        embedding_model=embedding_model,
    )


def _moments(result: TranscriptionResult) -> list[Moment]:
    """Where each segment stands in `text_of` the result."""
    parts = [segment.text.rstrip("\n") for segment in result.segments]
    whole = "".join(parts)
    place = -(len(whole) - len(whole.lstrip()))
    moments = []
    for part, segment in zip(parts, result.segments, strict=True):
        lead = len(part) - len(part.lstrip())
        moments.append(Moment(max(0, place + lead), segment.start, segment.end))
        place += len(part)
    return moments


def _vectors(result: EmbeddingResult, spool: Spool) -> Matrix:
    return np.frombuffer(vector_bytes(result, spool), "<f4").reshape(result.count, result.dimensions).astype(np.float32)
