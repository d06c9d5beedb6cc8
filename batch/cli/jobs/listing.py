"""`batch jobs` and `batch show`: the queue, seen with the service up or down."""

from __future__ import annotations

from typing import Annotated

import typer

from batch.cli.app import Json, app
from batch.cli.home import Home, open_store
from batch.cli.jobs.filters import with_job_filter
from batch.cli.output import duration, moment, print_json, print_line, print_table, safe_text, short_moment
from batch.job_description import describe_payload, describe_result, job_document, job_summary, model_name
from batch.queue.jobs import Job
from batch.queue.nodes import SHOWN_NODE_CHARS
from batch.queue.selection.job_filter import EVERY_JOB, JobFilter
from batch.queue.store import Store

_ASKED_AT_ONCE = 1000


@app.command()
@with_job_filter
def jobs(
    home: Home = None,
    job_choice: JobFilter = EVERY_JOB,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many, the newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """List jobs, the newest first."""
    with open_store(home, readonly=True) as store:
        listed = store.newest_matching(job_choice, limit)
        nodes = _nodes(store, listed)
    if as_json:
        print_json([job_summary(job, nodes.get(job.id)) for job in listed])
        return
    if not nodes:
        print_table(_HEADINGS, [_row(job) for job in listed])
        return
    rows = [(*_row(job)[:3], nodes.get(job.id, "-")[:SHOWN_NODE_CHARS], *_row(job)[3:]) for job in listed]
    print_table((*_HEADINGS[:3], "node", *_HEADINGS[3:]), rows)


_HEADINGS = ("id", "model", "state", "from", "created", "took", "what")


def _nodes(store: Store, listed: list[Job]) -> dict[str, str]:
    """Who has the jobs, or ended them, where that may be another machine."""
    ids = [job.id for job in listed]
    nodes: dict[str, str] = {}
    for start in range(0, len(ids), _ASKED_AT_ONCE):
        nodes |= store.workers_of(ids[start : start + _ASKED_AT_ONCE])
    return nodes


def _row(job: Job) -> tuple[str, ...]:
    took = duration(job.finished_at - job.started_at) if job.finished_at and job.started_at else "-"
    what = job.source or job.task
    if job.error:
        what = f"{what}: {job.error['message']}"
    return job.id, model_name(job), job.state, job.origin, short_moment(job.created_at), took, what


@app.command()
def show(
    job: Annotated[str, typer.Argument(metavar="ID", help="A job's id, or its beginning or end.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show one job: what was sent, what came out, or why it failed."""
    with open_store(home, readonly=True) as store:
        job_row = store.find(job)
        node = store.workers_of([job_row.id]).get(job_row.id)
    if as_json:
        print_json(job_document(job_row, node))
        return
    for name, value in _lines(job_row, node):
        if value:
            first, *rest = safe_text(value).split("\n")
            print_line(f"{name:10} {first}")
            for line in rest:
                print(f"{'':10} {line}")


def _lines(job: Job, node: str | None) -> list[tuple[str, str | None]]:
    started, ended = job.started_at, job.finished_at
    progress = job.progress if not job.state.ended else None
    share = f"{100 * progress.done / progress.total:.0f} %" if progress and progress.total else ""
    return [
        ("id", job.id),
        ("model", f"{model_name(job)} ({job.task})"),
        ("state", " ".join(part for part in (str(job.state), share) if part)),
        ("from", ": ".join(part for part in (str(job.origin), job.source) if part)),
        ("parent", job.parent),
        ("created", moment(job.created_at)),
        ("waited", duration(max(0.0, started - job.created_at)) if started else None),
        ("ended", moment(ended) if ended else None),
        ("took", duration(max(0.0, ended - started)) if started and ended else None),
        ("node", node),
        ("attempts", str(job.attempts) if job.attempts > 1 else None),
        ("request", describe_payload(job)),
        ("result", describe_result(job)),
        ("error", job.error["message"] if job.error else None),
    ]
