"""The inbox's files as people look at them: which there are, and what became of each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from batch.folder.ledger.rows import FileState
from batch.media.kind import MediaKind
from batch.queue.store import Store

_SLICE_ROWS = 500
_COLUMNS = (
    "f.id, f.path, f.state, c.kind, f.size, f.accepted_at, f.finished_at, f.gone, c.job, "
    "coalesce(json_extract(f.error, '$.message'), case when f.state = 'failed' then json_extract(c.error, '$.message') end)"
)


@dataclass(frozen=True, slots=True)
class FileFilter:
    """A file matches when every field that is set does."""

    states: tuple[FileState, ...] = ()
    kinds: tuple[MediaKind, ...] = ()
    folder: str | None = None
    """It lies in this folder of the inbox, or below it."""
    error: str | None = None
    """Its error's sentence holds this text, in whatever case."""
    since: float | None = None
    """Accepted at this Unix time or later."""


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file and its outcome. Times are Unix seconds."""

    id: int
    path: str
    """Below the inbox."""
    state: FileState
    kind: MediaKind | None
    """None for what was refused before anybody looked into it."""
    size: int
    accepted_at: float
    finished_at: float | None
    is_gone: bool
    """It has left the inbox."""
    job: str | None
    """The job of its latest step."""
    error: str | None


def list_files(store: Store, file_filter: FileFilter, limit: int | None = None) -> Iterator[ListedFile]:
    """Files that match, the newest first, read slice by slice."""
    where, params = _condition(file_filter)
    before = 1 << 62
    while limit is None or limit > 0:
        size = _SLICE_ROWS if limit is None else min(_SLICE_ROWS, limit)
        rows = store.read(
            f"select {_COLUMNS} from file f left join content c on c.id = f.content "
            f"where {store.inbox_scope.own('f')}{where} and f.id < ? order by f.id desc limit ?",
            [*params, before, size],
        )
        for row in rows:
            yield _listed(row)
        if len(rows) < size:
            return
        before = rows[-1][0]
        limit = None if limit is None else limit - len(rows)


def find_file(store: Store, path: str) -> ListedFile | None:
    """The file of a path below the inbox."""
    rows = store.read(
        f"select {_COLUMNS} from file f left join content c on c.id = f.content where {store.inbox_scope.own('f')}f.path = ?",
        (os.fsencode(path),),
    )
    return _listed(rows[0]) if rows else None


def _condition(file_filter: FileFilter) -> tuple[str, list[str | bytes | float]]:
    conditions: list[str] = ["1=1"]
    params: list[str | bytes | float] = []
    states = set(file_filter.states)
    if FileState.WAITING in states:
        states.add(FileState.WRITING)
    if states:
        conditions.append(f"f.state in ({','.join('?' * len(states))})")
        params += sorted(states)
    if file_filter.kinds:
        conditions.append(f"c.kind in ({','.join('?' * len(file_filter.kinds))})")
        params += file_filter.kinds
    if folder := (file_filter.folder or "").strip("/"):
        conditions.append("f.path >= ? and f.path < ?")
        params += [os.fsencode(f"{folder}/"), os.fsencode(f"{folder}0")]  # "0" follows "/"
    if file_filter.error is not None:
        conditions.append(
            "f.state = 'failed' and instr(lower(coalesce(json_extract(f.error, '$.message'), "
            "json_extract(c.error, '$.message'), '')), lower(?)) > 0"
        )
        params.append(file_filter.error)
    if file_filter.since is not None:
        conditions.append("f.accepted_at >= ?")
        params.append(file_filter.since)
    return " and ".join(conditions), params


def _listed(row: tuple[int, bytes, str, str | None, int, float, float | None, int, str | None, str | None]) -> ListedFile:
    id, path, state, kind, size, accepted_at, finished_at, gone, job, error = row
    return ListedFile(
        id=id,
        path=os.fsdecode(path),
        state=FileState.WAITING if state == FileState.WRITING else FileState(state),
        kind=MediaKind(kind) if kind else None,
        size=size,
        accepted_at=accepted_at,
        finished_at=finished_at,
        is_gone=bool(gone),
        job=job,
        error=error,
    )
