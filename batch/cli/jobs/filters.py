"""Options that say which jobs or files are meant."""

from __future__ import annotations

import functools
import inspect
import re
import time
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import typer

from batch.queue.jobs import Kind, Origin, State
from batch.queue.selection.job_filter import JobFilter

States = Annotated[list[State] | None, typer.Option("--state", help="Only jobs in this state; may be given several times.")]
Kinds = Annotated[list[Kind] | None, typer.Option("--kind", help="Only jobs of this kind; may be given several times.")]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Only jobs of the model with this name in the settings, or of a kind's own by the kind's name; may be given "
        "several times.",
    ),
]
Origins = Annotated[
    list[Origin] | None, typer.Option("--origin", help="Only jobs that came this way; may be given several times.")
]
Folder = Annotated[str | None, typer.Option("--folder", help="Only what lies in this folder of the inbox, or below it.")]
ErrorText = Annotated[
    str | None, typer.Option("--error", metavar="TEXT", help="Only what failed with this text in its reason.")
]


def parse_since(text: str | None) -> float | None:
    """Unix seconds of `2h`, `3d`, `2026-11-26`, `2026-11-26T13:00`; a time zone may be given, else it is this machine's."""
    if text is None:
        return None
    if age := re.fullmatch(r"(\d{1,9})\s*([smhdw])", text.strip()):
        return time.time() - int(age[1]) * _SECONDS[age[2]]
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        raise typer.BadParameter(f"{text!r} is no time: give an age as 30m, 2h or 3d, or a date as 2026-11-26.") from None


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

Since = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="Only what came since then: an age as 30m, 2h or 3d, or a date."),
]


def _job_filter(
    state: States = None,
    kind: Kinds = None,
    model: Models = None,
    origin: Origins = None,
    folder: Folder = None,
    error: ErrorText = None,
    since: Since = None,
) -> JobFilter:
    """The filter that the options stand for; raises typer.BadParameter."""
    return JobFilter(
        states=tuple(state or ()),
        kinds=tuple(kind or ()),
        models=tuple(model or ()),
        origins=tuple(origin or ()),
        folder=folder,
        error=error,
        since=parse_since(since),
    )


def with_job_filter(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of a job filter in the place of its parameter `job_choice`."""
    options = inspect.signature(_job_filter, eval_str=True).parameters

    @functools.wraps(command)
    def run(**values: Any) -> None:
        job_choice = _job_filter(**{name: values.pop(name) for name in options})
        command(job_choice=job_choice, **values)

    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        parameters += options.values() if name == "job_choice" else [parameter]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer makes the options of
    return run
