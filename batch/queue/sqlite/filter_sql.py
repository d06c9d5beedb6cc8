"""A JobFilter as conditions on the job table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from batch.queue.job_filter import JobFilter
from batch.queue.jobs import Kind, Origin, State

Walk = tuple[str, list[str | float]]
"""A condition and its parameters."""


def walks(wanted: JobFilter, classes: Iterable[tuple[Kind, State, Origin]]) -> Iterator[Walk]:
    """One walk along the index for each kind, state and origin that has jobs and matches, however many there are."""
    conditions, more = _conditions(wanted)
    for kind, state, origin in sorted(set(classes)):
        if (
            (not wanted.kinds or kind in wanted.kinds)
            and (not wanted.states or state in wanted.states)
            and (not wanted.origins or origin in wanted.origins)
        ):
            yield " and ".join(["kind=?", "state=?", "origin=?", *conditions]), [kind, state, origin, *more]


def _conditions(wanted: JobFilter) -> tuple[list[str], list[str | float]]:
    conditions: list[str] = []
    params: list[str | float] = []
    if wanted.since is not None:
        conditions.append("id >= ?")  # ids begin with their time
        params.append(_first_id(wanted.since))
    if wanted.parent is not None:
        conditions.append("parent = ?")
        params.append(wanted.parent)
    if wanted.folder:
        folder = wanted.folder.strip("/")
        conditions.append("source >= ? and source < ?")
        params += [f"{folder}/", f"{folder}0"]  # "0" follows "/"
    if wanted.error is not None:
        conditions.append("instr(lower(coalesce(json_extract(error, '$.message'), '')), lower(?)) > 0")
        params.append(wanted.error)
    return conditions, params


def _first_id(when: float) -> str:
    return f"{max(0, int(when * 1000)):012x}"
