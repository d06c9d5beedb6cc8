"""`batch pause` and `batch resume`: hold bulk work back; interactive requests go on."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from batch.cli.app import Json, app
from batch.cli.home import Home, home_folder, open_store
from batch.cli.output import print_json, print_line
from batch.queue.channel import Waker
from batch.queue.jobs import Kind, Priority
from batch.queue.selection.pauses import Pause
from batch.queue.store import Store


class JobClass(StrEnum):
    """What `--class` takes."""

    INBOX = "inbox"
    BATCH = "batch"


_PRIORITIES = {JobClass.INBOX: Priority.INBOX, JobClass.BATCH: Priority.BATCH}

Models = Annotated[list[Kind] | None, typer.Argument(metavar="[vlm|embedding|stt]...", help="Which models; none: all.")]
Classes = Annotated[
    list[JobClass] | None,
    typer.Option("--class", help="Only files of the inbox, or only batch lines and `batch submit`; without it both."),
]


@app.command()
def pause(models: Models = None, home: Home = None, job_class: Classes = None, as_json: Json = False) -> None:
    """Begin no more bulk work until `batch resume`, over restarts too; what runs goes on, and so do requests."""
    with open_store(home) as store:
        store.pause(_pauses(models, job_class))
        _report(store, as_json)


@app.command()
def resume(models: Models = None, home: Home = None, job_class: Classes = None, as_json: Json = False) -> None:
    """Let bulk work go on that `batch pause` held back."""
    with open_store(home) as store:
        store.resume(_pauses(models, job_class))
        _wake(home, models or list(Kind))
        _report(store, as_json)


def _pauses(models: list[Kind] | None, classes: list[JobClass] | None) -> list[Pause]:
    return [Pause(kind, _PRIORITIES[one]) for kind in models or Kind for one in classes or JobClass]


def _wake(home: Path | None, models: list[Kind]) -> None:
    waker = Waker(home_folder(home) / ".batch")
    for kind in models:
        waker.wake(kind)
    waker.close()


def _report(store: Store, as_json: bool) -> None:
    paused = store.paused()
    classes = {kind: [str(one) for one in JobClass if Pause(kind, _PRIORITIES[one]) in paused] for kind in Kind}
    if as_json:
        print_json({str(kind): origins for kind, origins in classes.items()})
        return
    for kind, origins in classes.items():
        print_line(f"{kind:9} {' and '.join(origins) + ' paused' if origins else 'goes on'}")
