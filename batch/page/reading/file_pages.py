"""Files of the inbox a page at a time, the newest first; what a page costs does not depend on how many there are."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import NamedTuple

from batch.folder.ledger.rows import FileState
from batch.media.kind import MediaKind
from batch.queue.store import Store

SLICE_ROWS = 2000
"""Of a state, looked through at once where a filter leaves out most of them."""
SCAN_S = 0.03
"""After which no further slice is looked through for one page: it leads on from there."""
_NEWEST = 1 << 62
_EXCERPT_CHARS = 240
_ERROR = (
    "coalesce(json_extract(f.error, '$.message'), case when f.state = 'failed' then json_extract(c.error, '$.message') end)"
)
_COLUMNS = (
    "f.id, f.path, f.state, c.kind, f.size, f.accepted_at, f.finished_at, f.gone, f.redo is not null, c.job, c.sha256, "
    f"e.language, substr(p.text, 1, {_EXCERPT_CHARS}), {_ERROR}"
)
_CONTENT = "left join content c on c.id = f.content left join entry_source s on "
_TEXT = "s.path = f.path left join entry e on e.id = s.entry left join passage p on p.entry = e.id and p.n = 0"


@dataclass(frozen=True, slots=True)
class FileChoice:
    """A file matches when every field that is set does."""

    states: tuple[FileState, ...]
    kind: MediaKind | None = None
    folder: str | None = None
    """It lies in this folder of the inbox, or below it."""
    error: str | None = None
    """Its error's sentence holds this text, in whatever case."""

    @property
    def is_scan(self) -> bool:
        """Whether more than the state is asked for, which no index knows."""
        return bool(self.kind or self.folder or self.error)


@dataclass(frozen=True, slots=True)
class FileRow:
    """A file as a list shows it. Times are Unix seconds."""

    id: int
    path: str
    state: FileState
    kind: MediaKind | None
    """None for what was refused before anybody looked into it."""
    size: int
    accepted_at: float
    finished_at: float | None
    is_gone: bool
    """It has left the inbox."""
    is_redone: bool
    """It is to be done again."""
    job: str | None
    """The job of its latest step."""
    sha256: str | None
    language: str | None
    """Of the speech in it."""
    excerpt: str | None
    """The beginning of its caption, transcript or text; None where the search index has none."""
    error: str | None

    @property
    def name(self) -> str:
        """Without its folder."""
        return self.path.rpartition("/")[2]

    @property
    def is_redoable(self) -> bool:
        """Whether it has its outcome and lies in the inbox."""
        return not self.is_gone and not self.is_redone and self.state is not FileState.WAITING


class FilePage(NamedTuple):
    """A page of a list."""

    rows: list[FileRow]
    before: int | None
    """Where the next page begins; None behind the last."""


def read_file_page(store: Store, choice: FileChoice, before: int | None, limit: int) -> FilePage:
    """Files that match with ids below `before`. A page may hold fewer than `limit` where few match, and more may follow."""
    deadline = time.monotonic() + SCAN_S
    ids, reached = _slice(store, choice, _NEWEST if before is None else before, limit + 1)
    while len(ids) <= limit and reached and time.monotonic() < deadline:
        more, reached = _slice(store, choice, reached, limit + 1 - len(ids))
        ids += more
    page_ids = ids[:limit]
    return FilePage(_rows(store, page_ids), page_ids[-1] if len(ids) > limit else reached or None)


def _slice(store: Store, choice: FileChoice, before: int, limit: int) -> tuple[list[int], int]:
    """The newest ids of all states that match, and the id down to which was looked; 0 for all of them."""
    ids: list[int] = []
    reached = 0
    for state in choice.states:
        matching, lowest = _walk(store, choice, state, before, limit)
        ids += matching
        reached = max(reached, lowest)
    return sorted((id for id in ids if id >= reached), reverse=True)[:limit], reached


def read_file(store: Store, id: int) -> FileRow | None:
    """One file."""
    rows = _rows(store, [id])
    return rows[0] if rows else None


def file_of_job(store: Store, job: str) -> int | None:
    """The picture whose caption a job made; None for a job that made none, or is no more than one of a document's pages."""
    sources = store.read(
        "select source from job where id=? and origin='inbox' and parent is null and source is not null", (job,)
    )
    if not sources:
        return None
    rows = store.read(
        "select c.owner from content c join file f on f.content = c.id "
        f"where {store.inbox_scope.own('f')}c.kind = ? and f.path = ?",
        (MediaKind.IMAGE, os.fsencode(sources[0][0])),
    )
    return None if not rows else rows[0][0]


def ids_of_paths(store: Store, paths: list[bytes]) -> dict[bytes, int]:
    """Ids of files by their paths below the inbox, as the system knows them; unknown ones are left out."""
    marks = ",".join("?" * len(paths)) or "null"
    own = store.inbox_scope.own()
    return {path: int(id) for path, id in store.read(f"select path, id from file where {own}path in ({marks})", paths)}


def _walk(store: Store, choice: FileChoice, state: FileState, before: int, limit: int) -> tuple[list[int], int]:
    """The newest ids of a state that match, and the id down to which was looked; 0 for all of them."""
    own = store.inbox_scope.own()
    if not choice.is_scan:
        rows = store.read(f"select id from file where {own}state=? and id<? order by id desc limit ?", (state, before, limit))
        return [row[0] for row in rows], rows[-1][0] if len(rows) == limit else 0
    slice_ = f"(select id, path, content, error, state from file where {own}state=? and id<? order by id desc limit ?)"
    where, params = _condition(choice)
    rows = store.read(
        f"select f.id from {slice_} f left join content c on c.id = f.content where {where} order by f.id desc limit ?",
        [state, before, SLICE_ROWS, *params, limit],
    )
    if len(rows) == limit:
        return [row[0] for row in rows], rows[-1][0]
    number, lowest = store.read(f"select count(*), min(id) from {slice_} as newest", (state, before, SLICE_ROWS))[0]
    return [row[0] for row in rows], lowest if number == SLICE_ROWS else 0


def _condition(choice: FileChoice) -> tuple[str, list[str | bytes]]:
    conditions: list[str] = []
    params: list[str | bytes] = []
    if choice.kind is not None:
        conditions.append("c.kind = ?")
        params.append(choice.kind)
    if folder := (choice.folder or "").strip("/"):
        conditions.append("f.path >= ? and f.path < ?")
        params += [os.fsencode(f"{folder}/"), os.fsencode(f"{folder}0")]  # "0" follows "/"
    if choice.error:
        conditions.append(f"instr(lower(coalesce({_ERROR}, '')), lower(?)) > 0")
        params.append(choice.error)
    return " and ".join(conditions) or "1=1", params


def _rows(store: Store, ids: list[int]) -> list[FileRow]:
    marks = ",".join("?" * len(ids)) or "null"
    inbox = store.inbox_scope
    joins = f"{_CONTENT}{inbox.same('s', 'f')}{_TEXT}"
    rows = store.read(f"select {_COLUMNS} from file f {joins} where {inbox.own('f')}f.id in ({marks}) order by f.id desc", ids)
    return [
        FileRow(
            id=row[0],
            path=os.fsdecode(row[1]),
            state=FileState.WAITING if row[2] == FileState.WRITING else FileState(row[2]),
            kind=MediaKind(row[3]) if row[3] else None,
            size=row[4],
            accepted_at=row[5],
            finished_at=row[6],
            is_gone=bool(row[7]),
            is_redone=bool(row[8]),
            job=row[9],
            sha256=row[10],
            language=row[11],
            excerpt=row[12],
            error=row[13],
        )
        for row in rows
    ]
