"""One file with all that is known of it: its text, the moments of a recording, what was asked, and its jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from batch.errors import BatchError, NotFound
from batch.folder.ledger.row_decoding import CONTENT_COLUMNS, to_content
from batch.folder.ledger.rows import Content, ContentParameters
from batch.folder.pipeline import result_of, text_of
from batch.folder.result_text import pages_text, text_in
from batch.page.reading.file_pages import FileRow, read_file
from batch.payloads.chat import ChatResult
from batch.payloads.embedding import EmbeddingResult
from batch.payloads.speech import TranscriptionResult
from batch.queue.jobs import Job, State
from batch.queue.spool import Spool
from batch.queue.store import Store

MAX_SHOWN_CHARS = 64_000
"""Of a text in one page: the rest is in the outbox."""


class ItemSegment(NamedTuple):
    """A stretch of speech. Seconds from the start of the recording."""

    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class Item:
    """What a file's page shows."""

    file: FileRow
    text: str | None
    """None where there is none yet, or none any more."""
    is_cut: bool
    """Whether the text is longer than what is shown."""
    language: str | None
    duration: float | None
    """Seconds of a recording."""
    segments: list[ItemSegment]
    parameters: list[tuple[str, str]]
    """What was asked, by name."""
    models: dict[str, str]
    """Model names by step."""
    jobs: list[tuple[str, Job | None]]
    """By step; None for one that is kept no longer."""
    note: str | None
    """What kept the text from being whole."""
    newer: int | None
    older: int | None


class _KnownText(NamedTuple):
    text: str | None = None
    language: str | None = None
    duration: float | None = None
    segments: tuple[ItemSegment, ...] = ()
    note: str | None = None


def read_item(store: Store, spool: Spool, id: int) -> Item:
    """One file by its id. Raises NotFound."""
    file = read_file(store, id)
    if file is None:
        raise NotFound(f"There is no file {id} any more.")
    rows = store.read(f"select {CONTENT_COLUMNS} from file f join content c on c.id = f.content where f.id = ?", (id,))
    content = to_content(rows[0]) if rows else None
    jobs = [] if content is None else [(step, store.job(job)) for step, job in content.jobs.items()]
    text = _KnownText() if content is None else _text(store, spool, file, content, dict(jobs))
    return Item(
        file=file,
        text=None if text.text is None else text.text[:MAX_SHOWN_CHARS],
        is_cut=text.text is not None and len(text.text) > MAX_SHOWN_CHARS,
        language=text.language or file.language,
        duration=text.duration,
        segments=list(text.segments),
        parameters=[] if content is None else _labelled_values(content.parameters),
        models={} if content is None else content.models,
        jobs=jobs,
        note=text.note,
        newer=_neighbour(store, f"select min(id) from file where {store.inbox_scope.own()}state=? and id>?", id),
        older=_neighbour(store, f"select max(id) from file where {store.inbox_scope.own()}state=? and id<?", id),
    )


def _text(store: Store, spool: Spool, file: FileRow, content: Content, jobs: dict[str, Job | None]) -> _KnownText:
    main = next(iter(jobs.values()), None)
    if main is not None and main.state is not State.DONE:
        return _KnownText()
    try:
        if content.reading.pages and any(job and isinstance(job.result, ChatResult) for job in jobs.values()):
            return _KnownText(pages_text(jobs), note=content.reading.note)
        if main is not None:
            return _text_of_job(main, spool)
    except (BatchError, OSError):
        pass  # written by another version, or gone: the index may have it all the same
    return _indexed_text(store, file)


def _text_of_job(job: Job, spool: Spool) -> _KnownText:
    result = result_of(job)
    match result:
        case TranscriptionResult():
            segments = tuple(ItemSegment(one.start, one.end, one.text.strip()) for one in result.segments)
            return _KnownText(text_of(result), result.language or None, result.duration, segments, result.truncated)
        case ChatResult():
            return _KnownText(text_of(result), note=result.note)
        case EmbeddingResult():
            return _KnownText(text_in(job, spool))


def _indexed_text(store: Store, file: FileRow) -> _KnownText:
    """The passages that the search index has of a file, with their times."""
    rows = store.read(
        f'select p.text, p.start, p."end" from file f join entry_source s on {store.inbox_scope.same("s", "f")}s.path = f.path '
        "join passage p on p.entry = s.entry where f.id = ? order by p.n",
        (file.id,),
    )
    segments = tuple(ItemSegment(start, end, text) for text, start, end in rows if start is not None)
    return _KnownText("\n".join(row[0] for row in rows) or None, segments=segments)


def _labelled_values(parameters: ContentParameters) -> list[tuple[str, str]]:
    values = msgspec.to_builtins(parameters)
    words = {True: "yes", False: "no"}
    return [(name.replace("_", " "), words[value] if isinstance(value, bool) else str(value)) for name, value in values.items()]


def _neighbour(store: Store, query: str, id: int) -> int | None:
    """The file with a result that stands beside this one in the gallery."""
    ids = [row[0] for state in ("done", "linked") for row in store.read(query, (state, id)) if row[0] is not None]
    return None if not ids else min(ids) if "min" in query else max(ids)
