"""What every store of jobs does: a Protocol, so that one process knows nothing of the database behind it.

`batch.queue.open_store` opens one. SQL is written here (batch/queue/sqlite) and in the modules that keep tables of their own
(the folder's ledger, batches) with statements that any store's `Transaction` can run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from batch.errors import BatchError, DiskFull, Unavailable
from batch.queue.jobs import Draft, Job, JobProgress, Kind, Origin, State, SummaryPage
from batch.queue.jobs import Lease as Lease
from batch.queue.nodes import NodeStore
from batch.queue.selection.job_filter import JobFilter
from batch.queue.selection.pauses import Pause

if TYPE_CHECKING:
    from batch.queue.full_text.search_tables import SearchTables


class LeaseLost(BatchError):
    """A worker wrote for a job that was taken from it meanwhile; nothing of it is kept."""

    sentence = "The job was given to another worker meanwhile."


class DamagedDatabase(Unavailable):
    """The database cannot be read; nothing goes on until a person has repaired it."""

    sentence = "The database is damaged: stop the service and run `batch repair`."


class EmptyDatabase(BatchError):
    """The database lacks a table that is asked for: no service of this version has run on it yet."""

    sentence = "No service has run here yet: start `batch serve`."


class StoreAway(Unavailable):
    """The database cannot be reached now; what was accepted is there once it is back."""

    sentence = "The database cannot be reached: try again soon."


class DatabaseBusy(Unavailable):
    """Somebody else writes, and this connection waits for nobody."""

    sentence = "The database is being written by somebody else: try again soon."


WRITE_REFUSED = (DiskFull, StoreAway)
"""What keeps a write from being made for now: the same may do later."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a leased job ended."""

    lease: Lease
    state: State
    result: str | None = None
    """JSON text."""
    error: Mapping[str, Any] | None = None
    """What BatchError.record gave."""


@dataclass(frozen=True, slots=True)
class Key:
    """An Idempotency-Key: a client's name for a request. Keys of the three ports are apart."""

    kind: Kind
    name: str
    fingerprint: str
    """Digest of the whole request: the same key with another one is refused."""


@dataclass(frozen=True, slots=True)
class Held:
    """A job that an earlier request with the same key made."""

    job: str
    state: State


class Rows(Protocol):
    """What a statement gave."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...


class Transaction(Protocol):
    """Statements that commit together; made by `Store.transaction`."""

    def execute(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> Rows:
        """Run a statement on a table of the caller's own."""
        ...

    def submit(self, draft: Draft) -> None:
        """Accept a job: its row and its message."""
        ...

    def hold(self, owner: str, names: Collection[str], role: str) -> None:
        """Tie payloads in the spool to the row with the id `owner`, while it stands; Unavailable where the bytes are gone."""
        ...


class Store(NodeStore, Protocol):
    """Methods may be called from any thread, one at a time. Whoever writes gets DiskFull where the disk takes no more, and
    StoreAway where the database cannot be reached; nothing of the write is kept then."""

    submitted: Callable[[set[str]], None]
    """Called after a commit that queued jobs; whoever owns the store may put a wake-up here."""

    @property
    def home(self) -> Path:
        """The home folder that it was opened for."""
        ...

    @property
    def search_tables(self) -> SearchTables: ...

    def close(self) -> None: ...

    def check(self) -> None:
        """Read through all of the database, as after an unclean end. Raises DamagedDatabase."""
        ...

    def back_up(self, target: Path, *, max_bytes: int | None = None) -> int | None:
        """Copy the database as it stands into a file, whole or not at all; its size in bytes.

        None, and nothing done, when it is larger than `max_bytes`. Raises DiskFull, DamagedDatabase.
        """
        ...

    def open_reader(self) -> Store:
        """Another connection to the same database, which only reads."""
        ...

    def open_immediate(self) -> ImmediateStore | None:
        """Another connection, whose writes raise DatabaseBusy rather than wait; None where a write always takes a while."""
        ...

    # -- tables of others

    def read(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        """Rows of a query."""
        ...

    def transaction(self, *, durable: bool = False) -> AbstractContextManager[Transaction]:
        """One write transaction. `durable`: on disk before it returns, not only safe from a killed process."""
        ...

    # -- the way of a job

    def submit(self, *drafts: Draft, durable: bool = False) -> None:
        """Accept jobs, all or none."""
        ...

    def submit_once(self, key: Key, drafts: Sequence[Draft]) -> list[Held]:
        """Accept the drafts under a key, in one transaction; the earlier jobs instead when the key is taken.

        Raises Unprocessable when it is taken by another request.
        """
        ...

    def end(self, endings: Sequence[Ending], *, durable: bool = False) -> list[bool]:
        """End leased jobs in one transaction; of each whether it was running under its lease until now."""
        ...

    def put_back(self, lease: Lease, *, count: bool, durable: bool = True) -> None:
        """Return a leased job to its old place in the line; `count=False` takes the attempt back too."""
        ...

    def progress(self, lease: Lease, progress: JobProgress) -> None:
        """Write down how far a job is."""
        ...

    def checkpoint(self, lease: Lease, step: int, data: str) -> None:
        """Write a finished step of a job durably, as JSON text. Raises LeaseLost."""
        ...

    def checkpoints(self, lease: Lease) -> list[str]:
        """The finished steps of a leased job in order, as JSON texts."""
        ...

    def refer(self, lease: Lease, sha256: str) -> None:
        """Tie a result's spool file to its job. Raises LeaseLost."""
        ...

    def recover(
        self, queue: str, worker: str, limit: int, last_death: str = "", *, predecessor: str = ""
    ) -> list[tuple[str, State]]:
        """Called by a worker before it takes anything: the leases of its dead `predecessor`, whose lock it holds, go back.

        Where a home has the database to itself, those of all other workers of the kind do. A job that took `limit` workers
        down is failed; one that only waited while a more urgent one ran inside it is not blamed. `last_death`: a clause that
        says what ended the last worker. Returns (job, new state) of all.
        """
        ...

    def abandon_waited(self, front: str | None = None) -> int:
        """At a service's start: requests whose clients went down with its predecessor are cancelled; how many. Those that
        another service accepted are let be, unless that `front` is named, as it is gone."""
        ...

    def states(self, jobs: Sequence[str]) -> dict[str, State]:
        """The states of those of up to 1,000 jobs that have a row."""
        ...

    def cancel(self, job: str) -> State:
        """Cancel: at once when queued, marked for its worker when running; an ended job stays as it is.

        Returns the state after it; raises NotFound.
        """
        ...

    def cancelled(self, job: str) -> bool:
        """Whether somebody wants a job stopped."""
        ...

    def retry(self, job: str) -> None:
        """Queue a failed or cancelled job again, its attempts counted anew; raises NotFound, Conflict."""
        ...

    # -- looking

    def job(self, job: str) -> Job | None:
        """One job's row."""
        ...

    def find(self, part: str) -> Job:
        """The one job whose id begins or ends with `part`, as people type it; raises NotFound."""
        ...

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
        ...

    def newest_matching(self, filter: JobFilter, limit: int) -> list[Job]:
        """The newest jobs that match a filter."""
        ...

    def summary_page(self, filter: JobFilter, limit: int, before: str | None = None) -> SummaryPage:
        """The newest jobs that match a filter, of those with ids below `before`, as far as a bounded look goes: a page may
        hold fewer than `limit`, none even, and more may follow."""
        ...

    def count_matching(self, filter: JobFilter) -> int:
        """How many jobs match a filter."""
        ...

    def ids_matching(self, filter: JobFilter) -> Iterator[str]:
        """Ids of all jobs that match a filter, the oldest first; what is done to them meanwhile may change them."""
        ...

    def ahead(self, job: str) -> int:
        """How many messages are before this job's in its line; 0 when it is next, running or ended."""
        ...

    def is_waiting(self, queue: str, above: float = -1.0) -> bool:
        """Whether a message of a higher priority than `above` waits, in a class that is not paused."""
        ...

    def queue_size(self, queue: str) -> int:
        """Messages of a queue."""
        ...

    def tally(self) -> list[tuple[str, str, int, str, int]]:
        """(kind, origin, priority, state, count) of all jobs."""
        ...

    def model_counts(self) -> list[tuple[str, str, str, int, int, float]]:
        """(model, kind, state, count, count of today, seconds of work today) of the jobs of models by name."""
        ...

    def today(self) -> list[tuple[str, str, int, float, float]]:
        """(kind, state, count, seconds of work, seconds of waiting) of the jobs that ended today."""
        ...

    # -- holding classes back

    def pause(self, pauses: Iterable[Pause]) -> None:
        """Begin no more jobs of these classes, until they are resumed; what runs goes on."""
        ...

    def resume(self, pauses: Iterable[Pause]) -> None:
        """Let jobs of these classes go on; their workers are woken."""
        ...

    def paused(self) -> set[Pause]:
        """The classes that are held back."""
        ...

    # -- what the running service writes for `batch status` in another process

    def note(self, notes: Mapping[str, Any]) -> None:
        """Write JSON values by name, of which nobody sees some without the others."""
        ...

    def notes(self) -> dict[str, Any]:
        """All of them."""
        ...

    # -- retention

    def expire(self, origin: Origin, before: float, limit: int = 500) -> int:
        """Delete up to `limit` ended jobs of an origin that ended before a Unix time; returns how many."""
        ...

    def orphans(self, limit: int) -> list[str]:
        """Spool files that lost a reference and have none left."""
        ...

    def forget_orphans(self, names: Sequence[str]) -> None:
        """These spool files are gone."""
        ...

    def referred(self, sha256: str) -> bool:
        """Whether anything refers to a spool file."""
        ...

    def vacuum(self, pages: int = 1000, *, keep: int = 0) -> bool:
        """Give freed space back to the file system, a slice at a time, down to `keep` pages; True while there is more."""
        ...


class ImmediateStore(Store, Protocol):
    """Writes take a fraction of a millisecond, or raise DatabaseBusy."""

    def submit_to(self, worker: str, draft: Draft, told: Collection[str] = ()) -> Lease | None:
        """Accept a job and lease it to a worker that is idle but for writing the ends of the `told`; None: it was queued."""
        ...
