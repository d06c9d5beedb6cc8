"""`batch retry` and `batch cancel`: single jobs, or all that a filter matches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from batch.cli.app import Json, app
from batch.cli.home import Home, home_folder, open_store
from batch.cli.jobs.filters import with_job_filter
from batch.cli.output import print_error, print_json, print_line
from batch.errors import BatchError, Conflict
from batch.queue.channel import Waker, give_notice
from batch.queue.jobs import Job, State
from batch.queue.selection.job_filter import EVERY_JOB, JobFilter
from batch.queue.store import Store

JobIds = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Job ids, or their beginnings or ends; none: a filter says which.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
_RETRIED = (State.FAILED, State.CANCELLED)
_CANCELLED = (State.QUEUED, State.RUNNING)


@app.command()
@with_job_filter
def retry(
    ids: JobIds = None,
    home: Home = None,
    job_choice: JobFilter = EVERY_JOB,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Queue failed or cancelled jobs again: those named, or all that match."""
    _act(home, ids, job_choice, _RETRIED, _retry, "queued again", dry_run, as_json)


@app.command()
@with_job_filter
def cancel(
    ids: JobIds = None,
    home: Home = None,
    job_choice: JobFilter = EVERY_JOB,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Cancel jobs, those named or all that match: queued ones at once, running ones at their next yield point."""
    _act(home, ids, job_choice, _CANCELLED, _cancel, "cancelled", dry_run, as_json)


def _retry(store: Store, job: Job) -> str:
    store.retry(job.id)
    return "queued again"


def _cancel(store: Store, job: Job) -> str:
    if job.state.ended:
        return f"{job.state} already"
    return "cancelled" if store.cancel(job.id) is State.CANCELLED else "stopping at its next yield point"


def _act(
    home: Path | None,
    ids: list[str] | None,
    job_choice: JobFilter,
    states: tuple[State, ...],
    act: Callable[[Store, Job], str],
    word: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    if bool(ids) == (not job_choice.is_empty):
        raise typer.BadParameter("name jobs by their ids, or say which with --state, --kind, --folder …: one of the two.")
    if not job_choice.is_empty:
        if wrong := set(job_choice.states) - set(states):
            raise typer.BadParameter(f"a job that is {wrong.pop()} cannot be {word}.")
        job_choice = replace(job_choice, states=job_choice.states or states)
    with open_store(home, readonly=dry_run) as store:
        if dry_run:
            _report_plan(store, ids, job_choice, word, as_json)
            return
        outcomes: list[dict[str, str]] = []
        failed = number = 0
        for job, outcome, is_done in _outcomes(home, store, ids, job_choice, act):
            failed += not is_done
            if as_json:
                outcomes.append({"id": job, "outcome": outcome})
            elif is_done:
                print_line(f"{job} is {outcome}.")
            else:
                print_error(outcome)
            number += 1
        if as_json:
            print_json(outcomes)
        elif not number:
            print_line("No job matches.")
    if failed:
        raise typer.Exit(1)


def _outcomes(
    home: Path | None, store: Store, ids: list[str] | None, job_choice: JobFilter, act: Callable[[Store, Job], str]
) -> Iterator[tuple[str, str, bool]]:
    """(job, what was done or why not, whether it was done), one after the other."""
    with _Notices(home) as notices:
        for id in ids if ids else store.ids_matching(job_choice):
            try:
                job = store.find(id)
                outcome = act(store, job)
            except Conflict as problem:
                if ids:
                    yield id, problem.message, False
                continue  # it has gone on since it was matched
            except BatchError as problem:
                yield id, problem.message, False
                continue
            notices.give(job)
            yield job.id, outcome, True


def _report_plan(store: Store, ids: list[str] | None, job_choice: JobFilter, word: str, as_json: bool) -> None:
    number = len([store.find(id) for id in ids]) if ids else store.count_matching(job_choice)
    if as_json:
        print_json({"matching": number})
    else:
        print_line(f"{number} {'job' if number == 1 else 'jobs'} would be {word}.")


class _Notices:
    """Tells a running service and its workers of changed rows, which they would see only when they look by themselves."""

    def __init__(self, home: Path | None) -> None:
        self._state_dir = home_folder(home) / ".batch"
        self._waker = Waker(self._state_dir)

    def __enter__(self) -> _Notices:
        return self

    def give(self, job: Job) -> None:
        self._waker.wake(job.queue)
        give_notice(self._state_dir, job.id)

    def __exit__(self, *_: object) -> None:
        self._waker.close()
