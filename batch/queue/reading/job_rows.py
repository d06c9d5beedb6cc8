"""A job's columns, and the job in a row of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from batch.queue.jobs import Job, JobProgress, JobSummary, Kind, Origin, State

COLUMNS = (
    "id, kind, task, state, origin, priority, request, created_at, attempts, started_at, finished_at, result, error, "
    "progress, source, parent, cancel, waited, model"
)

SUMMARY_COLUMNS = (
    "id, kind, task, state, origin, source, parent, created_at, started_at, finished_at, attempts, progress, "
    "json_extract(error, '$.message'), model"
)


def to_job(row: Sequence[Any]) -> Job:
    """The job in a row of `COLUMNS`."""
    (
        id,
        kind,
        task,
        state,
        origin,
        priority,
        payload,
        created,
        attempts,
        started,
        finished,
        result,
        error,
        progress,
        source,
        parent,
        cancel,
        waited,
        model,
    ) = row
    return Job(
        id=id,
        kind=Kind(kind),
        task=task,
        state=State(state),
        origin=Origin(origin),
        priority=priority,
        payload_json=payload,
        created_at=created,
        attempts=attempts,
        started_at=started,
        finished_at=finished,
        result_json=result,
        error=None if error is None else json.loads(error),
        progress=None if progress is None else _progress(json.loads(progress)),
        source=source,
        parent=parent,
        cancel=bool(cancel),
        waited=bool(waited),
        model=model,
    )


def to_summary(row: Sequence[Any]) -> JobSummary:
    """The job in a row of `SUMMARY_COLUMNS`."""
    id, kind, task, state, origin, source, parent, created, started, finished, attempts, progress, error, model = row
    return JobSummary(
        id=id,
        kind=Kind(kind),
        task=task,
        state=State(state),
        origin=Origin(origin),
        source=source,
        parent=parent,
        created_at=created,
        started_at=started,
        finished_at=finished,
        attempts=attempts,
        progress=None if progress is None else _progress(json.loads(progress)),
        error=error,
        model=model,
    )


def _progress(value: Mapping[str, Any]) -> JobProgress:
    return JobProgress(value.get("done", 0.0), value.get("total"), value.get("unit", "tokens"), value.get("start"))


def to_json(value: Any) -> str:
    """JSON as it stands in rows: compact, ASCII alone."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True)
