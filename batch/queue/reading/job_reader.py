"""Looking at jobs without changing them."""

from __future__ import annotations

import heapq
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from batch.errors import NotFound
from batch.model_kind import kind_of
from batch.queue.jobs import Job, JobSummary, Kind, Origin, Priority, State, SummaryPage
from batch.queue.reading.filter_sql import JobClass, Walk, page_walks, walks
from batch.queue.reading.job_rows import COLUMNS, SUMMARY_COLUMNS, to_job, to_summary
from batch.queue.selection.job_filter import JobFilter
from batch.queue.selection.pauses import Pause, open_ranges
from batch.queue.store import EmptyDatabase, Lease

MAX_COUNTED_AHEAD = 10_000
"""Messages before a job's are counted up to here: what a client is shown need not be exact beyond."""

MAX_SCANNED_ROWS = 10_000
"""Looked at for one page of a list where a filter leaves out most of them: the page leads on from there."""

SCAN_S = 0.03
"""After which no further slice is looked at for one page."""

_SLICE = 500
"""Ids read at once."""


_MODEL_COUNTS = (
    "select t.model, t.kind, t.state, t.n, coalesce(d.n, 0), coalesce(d.seconds, 0) from model_tally t left join model_daily d "
    "on d.model = t.model and d.kind = t.kind and d.state = t.state and d.day = {today} where t.n > 0 or d.n > 0"
)


class JobReader(ABC):
    """The questions that are put to a database, whichever it is."""

    _TODAY: str
    """An expression: the date of today."""

    @abstractmethod
    def read(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        """Rows of a query."""

    def job(self, job: str) -> Job | None:
        """One job's row."""
        rows = self.read(f"select {COLUMNS} from job where id=?", (job,))
        return to_job(rows[0]) if rows else None

    def states(self, jobs: Sequence[str]) -> dict[str, State]:
        """The states of those of up to 1,000 jobs that have a row."""
        marks = ",".join("?" * len(jobs))
        return {job: State(state) for job, state in self.read(f"select id, state from job where id in ({marks})", jobs)}

    def find(self, part: str) -> Job:
        """The one job whose id begins or ends with `part`, as people type it; raises NotFound."""
        exact = self.job(part)
        if exact:
            return exact
        # An index finds beginnings, and no index finds ends: those cost a walk through all ids.
        rows = self.read("select id from job where id >= ? and id < ? limit 2", (part, part + "\U0010ffff"))
        where = "begins"
        if not rows:
            rows = self.read("select id from job where substr(id, length(id) - length(?) + 1) = ? limit 2", (part, part))
            where = "begins or ends" if not rows else "ends"
        if len(rows) != 1:
            raise NotFound(f"{'More than one job' if rows else 'No job'} {where} with {part}.")
        job_row = self.job(rows[0][0])
        if job_row is None:
            raise NotFound(f"There is no job {part} any more.")
        return job_row

    def jobs(
        self,
        *,
        state: State | None = None,
        kind: Kind | None = None,
        origin: Origin | None = None,
        parent: str | None = None,
        limit: int = 50,
    ) -> list[Job]:
        """The newest jobs that match."""
        return self.newest_matching(
            JobFilter(
                states=(state,) if state else (),
                kinds=(kind,) if kind else (),
                origins=(origin,) if origin else (),
                parent=parent,
            ),
            limit,
        )

    def newest_matching(self, filter: JobFilter, limit: int) -> list[Job]:
        """The newest jobs that match a filter."""
        ids: list[str] = []
        for where, params in self._walks(filter):
            rows = self.read(f"select id from job where {where} order by id desc limit ?", [*params, limit])
            ids += [row[0] for row in rows]
        # Payloads and results are read of those alone that are shown: each may be large.
        jobs = (self.job(id) for id in sorted(ids, reverse=True)[:limit])
        return [job for job in jobs if job is not None]

    def summary_page(self, filter: JobFilter, limit: int, before: str | None = None) -> SummaryPage:
        """The newest jobs that match a filter, of those with ids below `before`, as far as a bounded look goes: a page may
        hold fewer than `limit`, none even, and more may follow."""
        deadline = time.monotonic() + SCAN_S
        indexed, scanned = page_walks(filter, self._classes())
        # Slices of ids come from the indexes alone; rows are looked at only where a filter asks for what no index knows.
        slice_rows = _SLICE if scanned[0] else limit + 1
        newest = heapq.merge(*(self._newest_ids(*walk, before, slice_rows) for walk in indexed), reverse=True)
        ids: list[str] = []
        row_count, next_before = 0, None
        while len(ids) <= limit and (some := list(islice(newest, slice_rows))):
            ids += self._matching(some, *scanned)
            row_count += len(some)
            if row_count >= MAX_SCANNED_ROWS or time.monotonic() >= deadline:
                next_before = some[-1]
                break
        if len(ids) > limit:
            next_before = ids[limit - 1]
        return SummaryPage(self._summaries(ids[:limit]), next_before)

    def _newest_ids(self, where: str, params: list[str | float], before: str | None, slice_rows: int) -> Iterator[str]:
        query = f"select id from job where {where} and id < ? order by id desc limit {slice_rows}"
        below = before or "\U0010ffff"
        while rows := self.read(query, [*params, below]):
            yield from (row[0] for row in rows)
            below = rows[-1][0]

    def _matching(self, ids: list[str], where: str, params: list[str | float]) -> list[str]:
        """Those of the ids that match a condition, in their order."""
        if not where:
            return ids
        marks = ",".join("?" * len(ids))
        rows = self.read(f"select id from job where id in ({marks}) and {where} order by id desc", [*ids, *params])
        return [row[0] for row in rows]

    def _summaries(self, ids: list[str]) -> list[JobSummary]:
        marks = ",".join("?" * len(ids)) or "null"
        return [
            to_summary(row)
            for row in self.read(f"select {SUMMARY_COLUMNS} from job where id in ({marks}) order by id desc", ids)
        ]

    def count_matching(self, filter: JobFilter) -> int:
        """How many jobs match a filter."""
        return sum(
            int(self.read(f"select count(*) from job where {where}", params)[0][0]) for where, params in self._walks(filter)
        )

    def ids_matching(self, filter: JobFilter) -> Iterator[str]:
        """Ids of all jobs that match a filter, the oldest first; read slice by slice, so that what is done to them may
        change them."""
        return heapq.merge(*(self._ids(where, params) for where, params in list(self._walks(filter))))

    def _ids(self, where: str, params: list[str | float]) -> Iterator[str]:
        after = ""
        query = f"select id from job where {where} and id > ? order by id limit {_SLICE}"
        while rows := self.read(query, [*params, after]):
            yield from (row[0] for row in rows)
            after = rows[-1][0]

    def _walks(self, filter: JobFilter) -> Iterator[Walk]:
        return walks(filter, self._classes())

    def _classes(self) -> set[JobClass]:
        """Of all jobs that there are."""
        return {(Kind(kind), State(state), Origin(origin)) for kind, origin, _, state, _ in self.tally()}

    def ahead(self, job: str) -> int:
        """How many messages are before this job's in its line; 0 when it is next, running or ended."""
        rows = self.read(
            "select t.queue, t.priority, t.id from job j join task t on t.id = j.message where j.id=? and j.state='queued'",
            (job,),
        )
        if not rows:
            return 0
        queue, priority, message = rows[0]
        limit = MAX_COUNTED_AHEAD
        return int(
            self.read(
                "select "
                "(select count(*) from (select 1 from task where queue=:queue and priority>:priority limit :limit) as a) + "
                "(select count(*) from "
                "(select 1 from task where queue=:queue and priority=:priority and id<:message limit :limit) as b)",
                {"queue": queue, "priority": priority, "message": message, "limit": limit},
            )[0][0]
        )

    def is_waiting(self, queue: str, above: float = -1.0) -> bool:
        """Whether a message of a higher priority than `above` waits, in a class that is not paused."""
        ((has_message, has_pause),) = self.read(
            "select exists (select 1 from task where queue=? and priority>?), exists (select 1 from pause where kind=?)",
            (queue, above, kind := kind_of(queue)),
        )
        if not has_message or not has_pause:  # one statement tells, nearly always
            return bool(has_message)
        paused = [row[0] for row in self.read("select priority from pause where kind=?", (kind,))]
        return any(
            self.read("select 1 from task where queue=? and priority>? and priority<? limit 1", (queue, *bounds))
            for bounds in open_ranges(above, paused)
        )

    def paused(self) -> set[Pause]:
        """The classes that are held back."""
        try:
            rows = self.read("select kind, priority from pause")
        except EmptyDatabase:  # opened read-only, and not migrated yet
            return set()
        return {Pause(Kind(kind), Priority(priority)) for kind, priority in rows}

    def queue_size(self, queue: str) -> int:
        """Messages of a queue."""
        return int(self.read("select count(*) from task where queue=?", (queue,))[0][0])

    def cancelled(self, job: str) -> bool:
        """Whether somebody wants a job stopped."""
        rows = self.read("select cancel from job where id=?", (job,))
        return bool(rows and rows[0][0])

    def checkpoints(self, lease: Lease) -> list[str]:
        """The finished steps of a leased job in order, as JSON texts."""
        return [row[0] for row in self.read("select data from checkpoint where job=? order by step", (lease.job.id,))]

    def tally(self) -> list[tuple[str, str, int, str, int]]:
        """(kind, origin, priority, state, count) of all jobs, from counters kept by triggers."""
        return self.read("select kind, origin, priority, state, n from tally where n > 0")

    def model_counts(self) -> list[tuple[str, str, str, int, int, float]]:
        """(model, kind, state, count of jobs, count of those that ended today, their seconds of work) of models by name, from
        counters kept by triggers."""
        return self.read(_MODEL_COUNTS.format(today=self._TODAY))

    def referred(self, sha256: str) -> bool:
        """Whether anything refers to a spool file."""
        return bool(self.read("select 1 from blob where sha256=? limit 1", (sha256,)))
