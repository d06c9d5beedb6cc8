"""A JobFilter as conditions on the job table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from batch.queue.job_filter import JobFilter
from batch.queue.jobs import Kind, Origin, State

Walk = tuple[str, list[str | float]]
"""A condition and its parameters."""


def walks(filter: JobFilter, classes: Iterable[tuple[Kind, State, Origin]]) -> Iterator[Walk]:
    """One walk along the index for each kind, state and origin that has jobs and matches, however many there are."""
    conditions, more = _conditions(filter)
    for kind, state, origin in sorted(set(classes)):
        if (
            (not filter.kinds or kind in filter.kinds)
            and (not filter.states or state in filter.states)
            and (not filter.origins or origin in filter.origins)
        ):
            yield " and ".join(["kind=?", "state=?", "origin=?", *conditions]), [kind, state, origin, *more]


def _conditions(filter: JobFilter) -> tuple[list[str], list[str | float]]:
    conditions: list[str] = []
    params: list[str | float] = []
    if filter.since is not None:
        conditions.append("id >= ?")  # ids begin with their time
        params.append(_first_id(filter.since))
    if filter.parent is not None:
        conditions.append("parent = ?")
        params.append(filter.parent)
    if filter.folder:
        folder = filter.folder.strip("/")
        conditions.append("source >= ? and source < ?")
        params += [f"{folder}/", f"{folder}0"]  # "0" follows "/"
    if filter.error is not None:
        conditions.append("instr(lower(coalesce(json_extract(error, '$.message'), '')), lower(?)) > 0")
        params.append(filter.error)
    return conditions, params


def _first_id(when: float) -> str:
    return f"{max(0, int(when * 1000)):012x}"
