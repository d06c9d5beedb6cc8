"""What `batch status` and the MCP server show of the service, gathered from the database alone."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

from batch.cpu_sharing import alive
from batch.folder.ledger.file_counts import FileCounts, count_files
from batch.model_kind import kind_of, model_of
from batch.queue.jobs import Job, Kind, Priority, State
from batch.queue.open_store import open_store
from batch.queue.selection.pauses import Pause
from batch.queue.store import EmptyDatabase, Store

_CLASSES = {
    int(Priority.INTERACTIVE): "interactive",
    int(Priority.LARGE_REQUEST): "interactive",
    int(Priority.BATCH): "batch",
    int(Priority.INBOX): "inbox",
}


class RunningJobRow(TypedDict):
    """The job that a model works on."""

    id: str
    task: str
    origin: str
    source: str | None
    since: float | None
    progress: dict[str, Any] | None
    attempts: int


class ModelStatus(TypedDict):
    """One model and its queue."""

    status: str
    error: str | None
    note: str | None
    """What was done to make the model fit into memory; None where nothing was."""
    model: str | None
    pid: int | None
    port: int | None
    running: RunningJobRow | None
    queued: dict[str, int]
    paused: list[str]
    done_today: int
    failed_today: int
    failed: int
    seconds_a_job: float | None
    eta_seconds: float | None


class NamedModelStatus(TypedDict):
    """A model that the settings name besides a kind's own; what its jobs amount to is told of its kind."""

    kind: str
    status: str
    error: str | None
    note: str | None
    model: str | None
    pid: int | None
    queued: int


class ServiceStatus(TypedDict):
    """What `batch status --json` prints."""

    home: str
    running: bool
    pid: int | None
    uptime: float | None
    profile: str | None
    version: str | None
    models: dict[str, ModelStatus]
    named_models: dict[str, NamedModelStatus]
    """By the names that the settings give them."""
    inbox: dict[str, int]
    backup_at: float | None
    """Unix time of the newest automatic copy of the database."""


def gather(database: Path | str, home: Path | None = None) -> ServiceStatus:
    """The status of the service of a home, whether it runs or not; all zero for a new one. `home`: of an address."""
    if isinstance(database, Path) and not database.exists():
        return _shape({}, {}, [], [], {}, FileCounts(), database.parent.parent)
    with closing(open_store(database, home=home, readonly=True)) as store:
        return read_status(store)


def read_status(store: Store) -> ServiceStatus:
    """As `gather`, from a database that is open."""
    try:
        notes = store.notes()
        service = notes.get("service") or {}
        running = {}
        for kind in Kind:
            jobs = store.jobs(kind=kind, state=State.RUNNING, limit=4)
            # The innermost of nested jobs is the one that computes; it began last.
            running[kind] = max(jobs, key=lambda job: job.started_at or 0.0) if jobs else None
        status = _shape(notes, service, store.tally(), store.today(), running, count_files(store), store.home, store.paused())
        status["named_models"] = {
            model_of(queue): _named_model(queue, note or {}, store.queue_size(queue), is_up=status["running"])
            for queue, note in ((name.partition(":")[2], note) for name, note in notes.items() if name.startswith("model:"))
            if model_of(queue)
        }
        return status
    except EmptyDatabase:
        return _shape({}, {}, [], [], {}, FileCounts(), store.home)


def _named_model(queue: str, note: dict[str, Any], queued: int, *, is_up: bool) -> NamedModelStatus:
    return {
        "kind": kind_of(queue).value,
        "status": note.get("status", "down") if is_up else "down",
        "error": note.get("error") if is_up else None,
        "note": (note.get("note") or None) if is_up else None,
        "model": note.get("facts", {}).get("model"),
        "pid": note.get("pid") if is_up else None,
        "queued": queued,
    }


def _shape(
    notes: dict[str, Any],
    service: dict[str, Any],
    tally: list[Any],
    today: list[Any],
    running: dict[Kind, Job | None],
    files: FileCounts,
    home: Path,
    pauses: Iterable[Pause] = (),
) -> ServiceStatus:
    up = bool(service) and alive(service["pid"])
    models: dict[str, ModelStatus] = {}
    for kind in Kind:
        note = notes.get(f"model:{kind}") or {}
        queued = {name: 0 for name in _CLASSES.values()}
        states = dict.fromkeys(State, 0)
        for row_kind, _, priority, state, n in tally:
            if row_kind == kind:
                states[State(state)] += n
                if state == State.QUEUED:
                    queued[_CLASSES.get(priority, "batch")] += n
        ended = {state: (n, seconds) for row_kind, state, n, seconds, _ in today if row_kind == kind}
        done, seconds = ended.get("done", (0, 0.0))
        job = running.get(kind) if up else None
        waiting = sum(queued.values())
        each = seconds / done if done else None
        seconds_left = 0.0 if job is None else _left(job, each)
        queue = 0.0 if not waiting else None if each is None else each * waiting
        models[kind.value] = {
            "status": note.get("status", "down") if up else "down",
            "error": note.get("error") if up else None,
            "note": (note.get("note") or None) if up else None,
            "model": note.get("facts", {}).get("model"),
            "pid": note.get("pid") if up else None,
            "port": service.get("ports", {}).get(kind.value) if up else None,
            "running": None
            if job is None
            else {
                "id": job.id,
                "task": job.task,
                "origin": str(job.origin),
                "source": job.source,
                "since": job.started_at,
                "progress": asdict(job.progress) if job.progress else None,
                "attempts": job.attempts,
            },
            "queued": queued,
            "paused": sorted({_CLASSES[pause.priority] for pause in pauses if pause.kind == kind}),
            "done_today": done,
            "failed_today": ended.get("failed", (0, 0.0))[0],
            "failed": states[State.FAILED],
            "seconds_a_job": each,
            "eta_seconds": None if seconds_left is None or queue is None or not (waiting or job) else queue + seconds_left,
        }
    return {
        "home": str(home),
        "running": up,
        "pid": service.get("pid") if up else None,
        "uptime": time.time() - service["started"] if up else None,
        "profile": service.get("profile"),
        "version": service.get("version"),
        "models": models,
        "named_models": {},
        "inbox": files._asdict(),
        "backup_at": (notes.get("backup") or {}).get("at"),
    }


def _left(job: Job, each: float | None) -> float | None:
    """Seconds a running job still takes, None while nobody knows: from its own progress where it tells one, else the
    mean. What an earlier attempt did says nothing of this one's pace."""
    spent = time.time() - (job.started_at or job.created_at)
    progress = job.progress
    if progress is not None and progress.total:
        done, start = progress.done, progress.start or 0.0
        return spent * (progress.total - done) / (done - start) if done > start else None
    return None if each is None else max(0.0, each - spent)
