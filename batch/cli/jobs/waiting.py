"""`batch wait`, and the waiting of `batch submit --wait`: follow jobs in the database until they have ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from batch.cli.app import Json, app
from batch.cli.exit_status import ExitStatus
from batch.cli.home import Home, open_store, service_note
from batch.cli.output import print_error, print_json, print_line, print_text, safe_line, terminal
from batch.errors import NotFound
from batch.job_description import full_result, job_summary
from batch.queue.jobs import Job, State
from batch.queue.store import Store

_LOOK_INTERVAL_S = 0.1
_SERVICE_INTERVAL_S = 2.0
"""Seconds between two looks whether the service still runs."""


@app.command("wait")
def wait_command(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Job ids, or their beginnings or ends.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Wait for jobs and print their results, or for batches. Ctrl-C leaves them running."""
    batches = [id for id in ids if id.startswith(("batch_", "msgbatch_"))]
    if batches:
        wait_for_batches(home, batches, as_json)
    ids = [id for id in ids if id not in batches]
    if not ids:
        return
    with open_store(home) as store:
        ended = wait_for_jobs(store, [(job.id, job.source or job.id) for job in map(store.find, ids)])
    if as_json:
        print_json([job_summary(job) | {"text": full_result(job)} for job in ended])
    else:
        for job in ended:
            if job.error:
                print_error(f"{job.id}: {job.error['message']}")
            elif job.state is State.CANCELLED:
                print_error(f"{job.id} was cancelled.")
            elif result := full_result(job):
                print_text(result if len(ended) == 1 else f"{job.id}: {result}")
    if any(job.state is not State.DONE for job in ended):
        raise typer.Exit(ExitStatus.FAILED)


def wait_for_batches(home: Path | None, ids: Sequence[str], as_json: bool) -> None:
    """Wait for batches and print where their results are; ends the command where a line failed."""
    from batch.cli.batches.following import exit_status, follow_batches, report
    from batch.cli.batches.listing import summary

    with open_store(home) as store:
        ended = follow_batches(store, ids)
    for batch in ended:
        report(batch)
    if as_json:
        print_json([summary(batch) for batch in ended])
    else:
        for batch in ended:
            print_line(f"{batch.id}  {batch.status}  {batch.completed} of {batch.total} lines answered")
    if (status := exit_status(ended)) is not None:
        raise typer.Exit(status)


def require_service(store: Store, home: str, consequence: str) -> None:
    """End with the status for it, and a sentence, unless the service runs."""
    if service_note(store) is None:
        print_error(f"The service is not running in {home}: start it with `batch serve`. {consequence}")
        raise typer.Exit(ExitStatus.SERVICE_DOWN)


def wait_for_jobs(store: Store, jobs: Sequence[tuple[str, str]]) -> list[Job]:
    """Wait for jobs, given as (id, label), with a bar for each on standard error where a person looks.

    Ends the command with a sentence when the service stops, or has never run.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    home = str(store.home)
    again = f"The jobs are queued: `batch wait {' '.join(id for id, _ in jobs[:3])}{' …' if len(jobs) > 3 else ''}` goes on."
    ended: dict[str, Job] = {}
    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[state]}", markup=False),
        TimeElapsedColumn(),
        console=terminal(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    next_check = 0.0
    with bars:
        tasks = {id: bars.add_task(safe_line(label)[-40:], total=1.0, state="queued") for id, label in jobs}
        while True:
            for id in tasks:
                if id in ended:
                    continue
                job = store.job(id)
                if job is None:
                    raise NotFound(f"Job {id} is gone: it ended, and its time to be kept is over (retention.*).")
                progress = job.progress
                share = progress.done / progress.total if progress and progress.total else 0.0
                bars.update(tasks[id], completed=1.0 if job.state.ended else share, state=str(job.state))
                if job.state.ended:
                    ended[id] = job
            if len(ended) == len(tasks):
                return [ended[id] for id, _ in jobs]
            if time.monotonic() >= next_check:
                require_service(store, home, again)
                next_check = time.monotonic() + _SERVICE_INTERVAL_S
            time.sleep(_LOOK_INTERVAL_S)
