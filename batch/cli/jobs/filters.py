"""Options that say which jobs or files are meant."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import Annotated

import typer

from batch.queue.job_filter import JobFilter
from batch.queue.jobs import Kind, Origin, State

States = Annotated[list[State] | None, typer.Option("--state", help="Only jobs in this state; may be given several times.")]
Kinds = Annotated[list[Kind] | None, typer.Option("--kind", help="Only jobs of this model; may be given several times.")]
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


def job_filter(
    states: list[State] | None = None,
    kinds: list[Kind] | None = None,
    origins: list[Origin] | None = None,
    folder: str | None = None,
    error: str | None = None,
    since: str | None = None,
) -> JobFilter:
    """The filter that the options stand for; raises typer.BadParameter."""
    return JobFilter(
        states=tuple(states or ()),
        kinds=tuple(kinds or ()),
        origins=tuple(origins or ()),
        folder=folder,
        error=error,
        since=parse_since(since),
    )
