"""Moving a home from its SQLite file into a PostgreSQL database, or back: a copy that nobody uses, the switch, the old side put
aside. Killed at any moment, it is begun again, or ended where the switch was made."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from secrets import token_hex

from batch import fail_points
from batch.database_address import FILE, IN_DATABASE
from batch.errors import BatchError, Conflict, SettingsProblem
from batch.queue.open_store import open_store
from batch.queue.remote.home_id import home_id
from batch.queue.remote.inbox_id import recognise_inbox
from batch.queue.store import Store
from batch.queue.transfer.home_switch import check_switch, is_same_place, switch_home
from batch.queue.transfer.move_mark import MoveMark
from batch.queue.transfer.payload_copy import PayloadCopy, fetch_payloads, share_payloads
from batch.queue.transfer.postgres_access import is_aside, refuse_others
from batch.queue.transfer.postgres_side import PostgresSource, PostgresTarget
from batch.queue.transfer.row_copy import Report, copy_rows, digest_source, digest_target, verify_rows
from batch.queue.transfer.sides import CopyDiffers, RowReader, RowSource, RowTarget, TargetInUse, Words
from batch.queue.transfer.sqlite_side import SqliteRows, SqliteSource, SqliteTarget, confirm_file

_MOVER = "move-to"
"""What stands for a worker where claims of dead ones are put back."""


@dataclass(frozen=True)
class MovedHome:
    """What came of a move."""

    aside: str
    """Where the old side is kept; empty where it was put aside before."""
    rows: dict[str, int] = field(default_factory=dict)
    """By table; empty where only the end of an earlier move was to be made."""
    payloads: PayloadCopy = field(default_factory=PayloadCopy)


class HomeMove:
    """One move of a home whose service is down, under its lock."""

    def __init__(
        self,
        home: Path,
        source: Path | str,
        *,
        inbox: Path,
        payloads: str,
        attempts: int,
        words: Words,
        keep_secret: Callable[[str, str], object],
        report: Report,
    ) -> None:
        """`source`: where the home's settings say that its jobs are. `inbox`: the folder of that name. `payloads`: the setting.
        `attempts`: after how many a job that took its workers down is failed. `words`: of a passage, as the search index holds
        them. `keep_secret` puts a webhook endpoint's secrets, as JSON, into the home's files. `report` gets what is copied, and
        how many so far."""
        self._home = home
        self._state_dir = home / ".batch"
        self._file = self._state_dir / "batch.db"
        self._source = source
        self._inbox = inbox
        self._payloads = payloads
        self._keep_secret = keep_secret
        self._attempts = attempts
        self._words = words
        self._report = report
        self._front = home_id(self._state_dir)
        stamp = time.strftime("%Y%m%d-%H%M%S")
        self._folder = _free_name(self._state_dir, f"moved-{stamp}")
        self._schema = f"batch_moved_{stamp.replace('-', '_')}_{token_hex(2)}"

    def to_postgres(self, url: str) -> MovedHome:
        """Move into an empty database. Raises TargetInUse, Conflict, SettingsProblem, DiskFull, StoreAway and CopyDiffers, with
        the home as it was, or with a sentence that says otherwise."""
        if isinstance(self._source, str) and not is_same_place(self._source, url):
            raise SettingsProblem("The home is in another PostgreSQL database: run `batch move-to sqlite` first.")
        check_switch(self._home)
        with ExitStack() as stack:
            with _unmoved():
                target = stack.enter_context(closing(PostgresTarget(url, self._words, *self._ids())))
                mark = MoveMark.read(target.mark())
                if not self._file.exists():
                    if mark is None:
                        raise Conflict("The jobs of this home are in that database already: there is nothing to move.")
                    switch_home(self._home, url)
                    target.confirm()
                    return MovedHome("")
                with closing(open_store(self._file, owns_home=True)) as store:
                    _put_back_claims(store, self._attempts)
                source = stack.enter_context(closing(SqliteSource(self._file)))
                is_copied = mark is not None and self._is_copied(source, target, mark)
                if mark is None and (table := target.table_in_use()):
                    raise TargetInUse(
                        f"The database holds rows of this or another home already (table {table}): name an empty one, which "
                        "`createdb` makes."
                    )
                rows, payloads = {}, PayloadCopy()
                if not is_copied:
                    spool = self._state_dir / "spool"
                    payloads = share_payloads(source.payload_names(), spool, url, self._payloads, self._report)
                    fail_points.reach("move-payloads")
                    target.begin(is_replacing=mark is not None)
                    if mark is None and (table := target.table_in_use()):
                        raise TargetInUse(f"Another program writes into the database (table {table}): stop it and try again.")
                    rows = self._copy(source, target, MoveMark(), payloads)
            moved = self._switch(source, target, url, self._folder)
            return replace(moved, rows=rows, payloads=payloads)

    def to_sqlite(self) -> MovedHome:
        """Move into the home's file. Raises as `to_postgres`, and Conflict where other programs use the database."""
        if isinstance(self._source, Path):
            return self._end_move_back()
        url = self._source
        check_switch(self._home)
        if self._payloads != IN_DATABASE:
            raise SettingsProblem(
                "The setting payloads names a bucket, which a home in its SQLite file does not use: take it out first. What "
                "lies there is brought along."
            )
        with ExitStack() as stack:
            with _unmoved():
                refuse_others(url)
                with closing(open_store(url, home=self._home)) as store:
                    _put_back_claims(store, self._attempts)
                source = stack.enter_context(closing(PostgresSource(url, self._words, *self._ids())))
                mark = self._mark_of_file(source)
                if mark is not None:
                    switch_home(self._home, FILE)
                    aside = "" if source.has_schema(mark.schema) else source.put_aside(mark.schema)
                    confirm_file(self._file)
                    return MovedHome(aside)
                target = stack.enter_context(closing(SqliteTarget(self._file, self._folder)))
                payloads = fetch_payloads(source.payload_names(), self._state_dir / "spool", url, self._report)
                fail_points.reach("move-payloads")
                for endpoint, secrets in source.secrets():
                    self._keep_secret(endpoint, secrets)
                rows = self._copy(source, target, MoveMark(address=url, schema=self._schema), payloads)
            moved = self._switch(source, target, FILE, self._schema)
            return replace(moved, rows=rows, payloads=payloads)

    def _ids(self) -> tuple[str, str]:
        """The home's, and its inbox's, as its next service will know it."""
        return self._front, recognise_inbox(self._inbox, self._state_dir, self._front)

    def _mark_of_file(self, source: PostgresSource) -> MoveMark | None:
        """The note in the file that is in the new one's place, where it holds all of the source. Raises TargetInUse where it
        holds something else."""
        if not self._file.exists():
            return None
        open_store(self._file, owns_home=True).close()
        with closing(SqliteRows(self._file)) as rows:
            mark = MoveMark.read(rows.mark())
            if mark is None and (table := rows.table_in_use()):
                raise TargetInUse(
                    f"{self._file} holds rows already (table {table}), of a time before the home was in PostgreSQL: move that "
                    "file away first."
                )
            if mark is not None and (source.has_schema(mark.schema) or self._is_copied(source, rows, mark)):
                return mark
        return None

    def _is_copied(self, source: RowReader, target: RowReader, mark: MoveMark) -> bool:
        """Whether a move that was broken off has copied all that is in the source now; what was done on its copy since stays.
        Raises TargetInUse where both sides have changed."""
        if digest_source(source, target, self._report) == mark.tables:
            return True
        if digest_target(source, target, self._report) != mark.tables:
            raise TargetInUse(
                "A move was broken off, and since then there was work on both sides: move to another, empty database, so that "
                "nothing is lost."
            )
        return False

    def _end_move_back(self) -> MovedHome:
        """A move back that was killed behind its switch. Raises Conflict where there was none."""
        mark = None
        if self._file.exists():
            with closing(SqliteRows(self._file)) as rows:
                mark = MoveMark.read(rows.mark())
        if mark is None:
            raise Conflict("The jobs of this home are in its SQLite file already: there is nothing to move.")
        aside = ""
        with _moved():
            if not is_aside(mark.address, mark.schema):
                with closing(PostgresSource(mark.address, self._words, *self._ids())) as source:
                    aside = source.put_aside(mark.schema)
            confirm_file(self._file)
        return MovedHome(aside)

    def _switch(self, source: RowSource, target: RowTarget, place: str, aside: str) -> MovedHome:
        """From now on the home is on the target; the source is put aside under that name."""
        with _moved():
            switch_home(self._home, place)
            fail_points.reach("move-switched")
            kept_in = source.put_aside(aside)
            fail_points.reach("move-aside")
            target.confirm()
        return MovedHome(kept_in)

    def _copy(self, source: RowSource, target: RowTarget, mark: MoveMark, payloads: PayloadCopy) -> dict[str, int]:
        """Copy all rows, compare them with what was sent, and let them be there, with a note that says whose copy they are."""
        sent = copy_rows(source, target, self._report)
        fail_points.reach("move-rows")
        verify_rows(source, target, sent, self._report)
        fail_points.reach("move-verified")
        if (target.lacking_payloads() or 0) > payloads.missing:
            raise CopyDiffers("Payloads that had been copied are gone: another program deletes what no job refers to, stop it.")
        source.check()
        target.commit(mark.with_tables({table: str(digest) for table, digest in sent.items()}).write())
        fail_points.reach("move-committed")
        return {table: digest.count for table, digest in sent.items()}


def _put_back_claims(store: Store, attempts: int) -> None:
    """What workers that died held goes back into the line, or is failed, as at the next start of the service."""
    for queue, worker in store.read("select distinct queue, worker from claim"):
        store.recover(queue, _MOVER, attempts, predecessor=worker)


@contextlib.contextmanager
def _unmoved() -> Iterator[None]:
    with _with_sentence("Nothing was moved: the home works as before."):
        yield


@contextlib.contextmanager
def _moved() -> Iterator[None]:
    with _with_sentence("All is copied: run `batch move-to` once more, which ends the move."):
        yield


@contextlib.contextmanager
def _with_sentence(sentence: str) -> Iterator[None]:
    """What goes wrong is told with what it means for the home."""
    try:
        yield
    except BatchError as error:
        error.message = f"{error.message} {sentence}"
        error.args = (error.message,)
        raise


def _free_name(folder: Path, name: str) -> str:
    """A name that nothing in the folder has: two moves may fall into one second."""
    names = itertools.chain((name,), (f"{name}-{number}" for number in itertools.count(2)))
    return next(free for free in names if not (folder / free).exists())
