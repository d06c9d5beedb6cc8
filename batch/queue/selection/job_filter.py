"""Which jobs a person means: for lists, and for what is done to many at once."""

from __future__ import annotations

from dataclasses import dataclass

from batch.queue.jobs import Kind, Origin, State


@dataclass(frozen=True, slots=True)
class JobFilter:
    """A job matches when every field that is set does."""

    states: tuple[State, ...] = ()
    kinds: tuple[Kind, ...] = ()
    models: tuple[str, ...] = ()
    """Names of models in the settings; a kind's name stands for the kind's own."""
    origins: tuple[Origin, ...] = ()
    parent: str | None = None
    folder: str | None = None
    """The source lies in this folder of the inbox, or below it."""
    error: str | None = None
    """The error's sentence holds this text, in whatever case."""
    since: float | None = None
    """Created at this Unix time or later."""

    @property
    def is_empty(self) -> bool:
        """Whether every job matches."""
        return self == EVERY_JOB


EVERY_JOB = JobFilter()
