"""A JobFilter as conditions on the job table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from batch.queue.jobs import Kind, Origin, State
from batch.queue.selection.job_filter import JobFilter

Walk = tuple[str, list[str | float]]
"""A condition and its parameters."""
JobClass = tuple[Kind, State, Origin]
_NOTHING: Walk = ("1=0", [])
_STATES_WITH_ERROR = (State.FAILED, State.CANCELLED)
"""The others need no look at what their jobs' errors say."""


def walks(filter: JobFilter, classes: Iterable[JobClass]) -> Iterator[Walk]:
    """One walk along the index for each kind, state and origin that has jobs and matches, however many there are."""
    conditions, more = _conditions(filter)
    for job_class in _matching_classes(filter, classes):
        for model, name in _models(filter, job_class[0]):
            yield " and ".join(["kind=?", "state=?", "origin=?", *model, *conditions]), [*job_class, *name, *more]


def page_walks(filter: JobFilter, classes: Iterable[JobClass]) -> tuple[list[Walk], Walk]:
    """Walks that indexes answer by themselves, and the condition on what they lead to; an empty one when that is all."""
    matching = _matching_classes(filter, classes)
    if not matching:
        return [_NOTHING], ("", [])
    if filter.parent is None:
        conditions, params = _conditions(replace(filter, since=None))
        after, since = _conditions(JobFilter(since=filter.since))
        indexed = [
            (" and ".join(["kind=?", "state=?", "origin=?", *model, *after]), [*job_class, *name, *since])
            for job_class in matching
            for model, name in _models(filter, job_class[0])
        ]
        return indexed or [_NOTHING], (" and ".join(conditions), params)
    conditions, params = _conditions(replace(filter, parent=None))
    if filter.models:
        conditions.append(f"case model when '' then kind else model end in ({','.join('?' * len(filter.models))})")
        params += filter.models
    conditions.append(f"(kind, state, origin) in (values {','.join(['(?,?,?)'] * len(matching))})")
    params += [word for job_class in matching for word in job_class]
    return [("parent=?", [filter.parent])], (" and ".join(conditions), params)


def _matching_classes(filter: JobFilter, classes: Iterable[JobClass]) -> list[JobClass]:
    return [
        (kind, state, origin)
        for kind, state, origin in sorted(set(classes))
        if (not filter.kinds or kind in filter.kinds)
        and (not filter.states or state in filter.states)
        and (not filter.origins or origin in filter.origins)
        and (filter.error is None or state in _STATES_WITH_ERROR)
    ]


def _models(filter: JobFilter, kind: Kind) -> list[tuple[list[str], list[str]]]:
    """A condition on the model and its parameters for each of the filter's that may be of a kind; none at all where every
    model matches."""
    if not filter.models:
        return [([], [])]
    # The second condition says to both databases that the index of named models has all that match.
    return [(["model=''"], []) if model == kind else (["model=?", "model<>''"], [model]) for model in _possible(filter, kind)]


def _possible(filter: JobFilter, kind: Kind) -> list[str]:
    return [model for model in dict.fromkeys(filter.models) if model == kind or model not in set(Kind)]


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
