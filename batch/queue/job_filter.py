"""Which jobs a person means: for lists, and for what is done to many at once."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from batch.queue.jobs import Job, Kind, Origin, State
from batch.queue.store import Store

_SLICE = 500


@dataclass(frozen=True, slots=True)
class JobFilter:
    """A job matches when every field that is set does."""

    states: tuple[State, ...] = ()
    kinds: tuple[Kind, ...] = ()
    origins: tuple[Origin, ...] = ()
    parent: str | None = None
    folder: str | None = None
    """The source lies in this folder of the inbox, or below it."""
    error: str | None = None
    """The error's sentence holds this text, in whatever case."""
    since: float | None = None
    """Created at this Unix time or later."""
    until: float | None = None
    """Created before this Unix time."""

    @property
    def is_empty(self) -> bool:
        """Whether every job matches."""
        return self == JobFilter()


def count_jobs(store: Store, wanted: JobFilter) -> int:
    """How many jobs match."""
    total = 0
    for where, params in _walks(store, wanted):
        total += int(store.read(f"select count(*) from job where {where}", params)[0][0])
    return total


def newest_jobs(store: Store, wanted: JobFilter, limit: int) -> list[Job]:
    """The newest jobs that match. Each kind, state and origin is one walk along an index, however many there are."""
    ids: list[str] = []
    for where, params in _walks(store, wanted):
        rows = store.read(f"select id from job where {where} order by id desc limit ?", [*params, limit])
        ids += [row[0] for row in rows]
    # Payloads and results are read of those alone that are shown: each may be large.
    jobs = (store.job(id) for id in sorted(ids, reverse=True)[:limit])
    return [job for job in jobs if job is not None]


def matching_ids(store: Store, wanted: JobFilter) -> Iterator[str]:
    """Ids of all jobs that match, the oldest first; read slice by slice, so that what is done to them may change them."""
    return heapq.merge(*(_ids(store, where, params) for where, params in list(_walks(store, wanted))))


def _ids(store: Store, where: str, params: list[str | float]) -> Iterator[str]:
    after = ""
    while rows := store.read(f"select id from job where {where} and id > ? order by id limit {_SLICE}", [*params, after]):
        yield from (row[0] for row in rows)
        after = rows[-1][0]


def _walks(store: Store, wanted: JobFilter) -> Iterator[tuple[str, list[str | float]]]:
    """A condition and its parameters for each kind, state and origin that has jobs and matches."""
    conditions, more = _conditions(wanted)
    classes = {(Kind(kind), State(state), Origin(origin)) for kind, origin, _, state, _ in store.tally()}
    for kind, state, origin in sorted(classes):
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
    if wanted.until is not None:
        conditions.append("id < ?")
        params.append(_first_id(wanted.until))
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
