"""`batch jobs`, `show`, `retry` and `cancel`: the queue, seen and steered, with the service up or down."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from batch.cli.app import Home, Json, app
from batch.cli.status import duration
from batch.cli.status_data import database
from batch.errors import NotFound
from batch.queue.jobs import Job, Kind, Origin, State
from batch.queue.store import Store

JobIds = Annotated[list[str], typer.Argument(metavar="ID...", help="Job ids, or their beginnings.")]


@contextmanager
def opened(home: Path | None, *, readonly: bool = False) -> Iterator[Store]:
    """The store of a home; raises NotFound where no service has ever run."""
    path = database(home)
    if not path.exists():
        raise NotFound(f"{path.parent.parent} has no queue yet: start `batch serve` there, or name the home with --home.")
    store = Store(path, readonly=readonly)
    try:
        yield store
    finally:
        store.close()


@app.command()
def jobs(
    home: Home = None,
    state: Annotated[State | None, typer.Option(help="Only jobs in this state.")] = None,
    kind: Annotated[Kind | None, typer.Option(help="Only jobs of this model.")] = None,
    origin: Annotated[Origin | None, typer.Option(help="Only jobs that came through this door.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, the newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """List jobs, the newest first."""
    with opened(home, readonly=True) as store:
        found = store.jobs(state=state, kind=kind, origin=origin, limit=limit)
    if as_json:
        print(json.dumps([_row(job) for job in found], indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for heading in ("id", "model", "state", "from", "made", "took", "what"):
        table.add_column(heading, overflow="ellipsis" if heading == "what" else "fold", no_wrap=True)
    for job in found:
        took = duration(job.finished_at - job.started_at) if job.finished_at and job.started_at else "-"
        what = _plain(job.source) if job.source else job.task
        table.add_row(job.id, job.kind, job.state, job.origin, _made(job.created_at), took, what)
    Console(highlight=False).print(table)


@app.command()
def show(
    job: Annotated[str, typer.Argument(metavar="ID", help="A job's id, or its beginning.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show one job: its request, its result or its error."""
    with opened(home, readonly=True) as store:
        found = store.find(job)
    if as_json:
        print(json.dumps(_whole(found), indent=1))
        return
    for name, value in _row(found).items():
        if value is not None:
            print(f"{name:12} {_plain(str(value))}")
    print(f"{'request':12} {_short(found.payload_json)}")
    if found.result_json is not None:
        print(f"{'result':12} {_short(found.result_json)}")
    if found.error is not None:
        print(f"{'error':12} {found.error['message']}")


@app.command()
def retry(ids: JobIds, home: Home = None) -> None:
    """Queue failed or cancelled jobs again."""
    with opened(home) as store:
        for one in ids:
            found = store.find(one)
            store.retry(found.id)
            _tell(home, found)
            print(f"{found.id} is queued again.")


@app.command()
def cancel(ids: JobIds, home: Home = None) -> None:
    """Cancel jobs: queued ones at once, running ones at their next unit of work."""
    with opened(home) as store:
        for one in ids:
            found = store.find(one)
            if found.state.ended:
                print(f"{found.id} is {found.state} already.")
                continue
            state = store.cancel(found.id)
            _tell(home, found)
            print(f"{found.id} is cancelled." if state is State.CANCELLED else f"{found.id} stops at its next unit.")


def _tell(home: Path | None, job: Job) -> None:
    """Without it the worker and the service would see the change only when they look by themselves."""
    from batch.queue.channel import Waker, give_notice

    state_dir = database(home).parent
    waker = Waker(state_dir)
    waker.wake(job.kind)
    waker.close()
    give_notice(state_dir, job.id)


def _row(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "kind": str(job.kind),
        "task": job.task,
        "state": str(job.state),
        "origin": str(job.origin),
        "priority": job.priority,
        "source": job.source,
        "parent": job.parent,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "attempts": job.attempts,
        "progress": asdict(job.progress) if job.progress else None,
        "error": job.error["message"] if job.error else None,
    }


def _whole(job: Job) -> dict[str, Any]:
    """Every column, payload and result as they stand in the row, whichever version of batch wrote them."""
    found = {key: str(value) if isinstance(value, StrEnum) else value for key, value in asdict(job).items()}
    payload, result = found.pop("payload_json"), found.pop("result_json")
    return found | {"request": json.loads(payload), "result": None if result is None else json.loads(result)}


def _made(when: float) -> str:
    """The time of day for today's jobs, the date for older ones."""
    moment = datetime.fromtimestamp(when)
    return moment.strftime("%H:%M:%S" if moment.date() == datetime.now().date() else "%Y-%m-%d")


def _plain(text: str) -> str:
    """File names may hold anything: control characters would steer the reader's terminal, brackets rich's markup."""
    return "".join(c if c.isprintable() else "?" for c in text).replace("[", "\\[")


def _short(text: str) -> str:
    return text if len(text) <= 4000 else f"{text[:4000]}… ({len(text)} characters; --json shows all)"
