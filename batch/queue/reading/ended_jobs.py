"""What is counted of jobs that have ended: a few columns of many rows, as whole jobs take several times as long to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

MAX_JOBS = 500
"""Read by one statement, which has a mark for each."""

_COLUMNS = "id, task, state, origin, created_at, started_at, finished_at, result"


class EndedJob(NamedTuple):
    """A job's end; times in Unix seconds."""

    id: str
    task: str
    state: str
    origin: str
    created_at: float
    started_at: float | None
    finished_at: float | None
    result_json: str | None


class _Rows(Protocol):
    def read(self, sql: str, params: Sequence[Any] = ()) -> list[Any]: ...


def read_ended_jobs(store: _Rows, jobs: Sequence[str]) -> list[EndedJob]:
    """Those of the jobs that have a row, in the order of `jobs`."""
    rows: dict[str, EndedJob] = {}
    for start in range(0, len(jobs), MAX_JOBS):
        some = jobs[start : start + MAX_JOBS]
        marks = ",".join("?" * len(some))
        rows.update((row[0], EndedJob(*row)) for row in store.read(f"select {_COLUMNS} from job where id in ({marks})", some))
    return [rows[job] for job in jobs if job in rows]
