"""What `batch status` and the MCP server show of the service, gathered from the database alone."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from batch.cpu_sharing.core_table import alive
from batch.folder.ledger.file_counts import FileCounts, count_files
from batch.model_kind import kind_of, model_of, queue_of
from batch.queue.jobs import Job, Kind, Priority, State
from batch.queue.nodes import Node, NodeOverview
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
    """A model that the settings name besides a kind's own; its jobs are among those that are told of its kind."""

    kind: str
    status: str
    error: str | None
    note: str | None
    model: str | None
    pid: int | None
    running: int
    queued: int
    done_today: int
    failed_today: int
    failed: int
    seconds_a_job: float | None
    eta_seconds: float | None


class QueueNodesStatus(TypedDict):
    """The workers of one queue, on all machines."""

    ready: int
    loading: int
    draining: int
    silent: int
    failed: int
    jobs: int
    """That they hold."""
    builds: int
    """Different ones: with more than one, a second attempt may draw other tokens."""
    heard_of_s: float | None
    """Seconds since the last sign of life of the one that gave none for the longest; None without workers."""
    oldest_wait_s: float | None
    """How long the oldest waiting job of a class that is not paused has waited; None where none waits."""


class NodeStatus(TypedDict):
    """One worker."""

    id: str
    kind: str
    queue: str
    state: str
    model: str
    build: str
    version: str
    error: str
    takes: str
    """"all", or "interactive": requests that a client waits for."""
    jobs: int
    heard_of_s: float


class NodesStatus(TypedDict):
    """The workers of all machines, in a size that does not grow with their number."""

    count: int
    queues: dict[str, QueueNodesStatus]
    first: list[NodeStatus]
    """At most 20 of them, those in trouble before the others; `batch nodes` lists all."""
    clock_difference_s: float
    """How far the database's clock is ahead of this machine's."""


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
    nodes: NotRequired[NodesStatus]
    """Only where machines share a database."""


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
        overview = store.overview()
        workers = {} if overview is None else {queue.queue: queue.states.get("ready", 0) for queue in overview.queues}
        files, pauses = count_files(store), store.paused()
        status = _shape(notes, service, store.tally(), store.today(), running, files, store.home, pauses, workers)
        status["named_models"] = _named_models(notes, store.model_counts(), workers, is_up=status["running"])
        if overview is not None:
            status["nodes"] = _nodes(overview, store.lease_s)
        return status
    except EmptyDatabase:
        return _shape({}, {}, [], [], {}, FileCounts(), store.home)


def _named_models(
    notes: dict[str, Any], counts: list[tuple[str, str, str, int, int, float]], workers: dict[str, int], *, is_up: bool
) -> dict[str, NamedModelStatus]:
    """Those that the service knows, and those that jobs wait for though it does not."""
    states: dict[str, dict[str, int]] = {}
    ended: dict[str, dict[str, tuple[int, float]]] = {}
    for model, kind, state, n, today, seconds in counts:
        queue = queue_of(Kind(kind), model)
        states.setdefault(queue, {})[state] = n
        ended.setdefault(queue, {})[state] = (today, seconds)
    noted = {name.partition(":")[2]: note or {} for name, note in notes.items() if name.startswith("model:")}
    waiting = [queue for queue, held in states.items() if held.get(State.QUEUED) or held.get(State.RUNNING)]
    named: dict[str, NamedModelStatus] = {}
    for queue in dict.fromkeys([*noted, *waiting]):
        if not model_of(queue):
            continue
        note, held = noted.get(queue, {}), states.get(queue, {})
        done, seconds = ended.get(queue, {}).get(State.DONE, (0, 0.0))
        each = seconds / done if done else None
        left = held.get(State.QUEUED, 0) + held.get(State.RUNNING, 0)
        named[model_of(queue)] = {
            "kind": kind_of(queue).value,
            "status": note.get("status", "down") if is_up else "down",
            "error": note.get("error") if is_up else None,
            "note": (note.get("note") or None) if is_up else None,
            "model": note.get("facts", {}).get("model"),
            "pid": note.get("pid") if is_up else None,
            "running": held.get(State.RUNNING, 0),
            "queued": held.get(State.QUEUED, 0),
            "done_today": done,
            "failed_today": ended.get(queue, {}).get(State.FAILED, (0, 0.0))[0],
            "failed": held.get(State.FAILED, 0),
            "seconds_a_job": each,
            "eta_seconds": each * left / max(1, workers.get(queue, 1)) if each is not None and left else None,
        }
    return named


def _nodes(overview: NodeOverview, lease_s: float) -> NodesStatus:
    queues: dict[str, QueueNodesStatus] = {}
    for queue in overview.queues:
        queues[queue.queue] = {
            "ready": queue.states.get("ready", 0),
            "loading": queue.states.get("loading", 0),
            "draining": queue.states.get("draining", 0),
            "silent": queue.states.get("silent", 0),
            "failed": queue.states.get("failed", 0),
            "jobs": queue.leases,
            "builds": queue.builds,
            "heard_of_s": round(queue.beat_age_s, 3) if queue.states else None,
            "oldest_wait_s": None if queue.oldest_wait_s is None else round(queue.oldest_wait_s, 3),
        }
    return {
        "count": overview.count,
        "queues": queues,
        "first": [_node(node, lease_s) for node in overview.nodes],
        "clock_difference_s": round(overview.clock_difference_s, 3),
    }


def _node(node: Node, lease_s: float) -> NodeStatus:
    return {
        "id": node.id,
        "kind": node.kind.value,
        "queue": str(node.queue),
        "state": node.state(lease_s),
        "model": node.model,
        "build": node.build,
        "version": node.version,
        "error": node.error,
        "takes": node.takes,
        "jobs": node.leases,
        "heard_of_s": round(node.beat_age_s, 3),
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
    workers: Mapping[str, int] | None = None,
) -> ServiceStatus:
    """`workers`: how many are ready, by queue, where machines share a database."""
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
        queue = 0.0 if not waiting else None if each is None else each * waiting / max(1, (workers or {}).get(kind, 1))
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
