"""What goes when its days are over: ended jobs, files that left the inbox, spool files that nothing refers to, and the pages
that the database no longer uses."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

from batch.batches.file_store import FileStore
from batch.batches.result_file import remove_left_over
from batch.conversations.completion_store import CompletionStore, conversation_bytes, delete_least_used, stored_bytes
from batch.conversations.response_store import ResponseStore
from batch.errors import BatchError
from batch.folder.ledger.retention import LedgerRetention
from batch.notifications.notification_store import NotificationStore
from batch.queue.jobs import Origin
from batch.queue.spool import Spool, is_spool_name
from batch.queue.store import Store
from batch.settings import Settings

logger = logging.getLogger("batch.retention")

SPARE_PAGES = 1000
"""Free pages that stay in the database, for the jobs to come."""
FRESH_SPOOL_FILE_S = 60.0
"""A spool file younger than this may belong to a job that is just being submitted."""
MAX_CLOCK_DRIFT_S = 60.0
"""Wall clock and running time may drift so far apart between two looks without its being a jump."""
DOUBT_AFTER_JUMP_S = 3600.0
"""After a jump of the clock nothing is judged by its age for so long: whoever set it may set it back."""
UNREFERENCED_SPOOL_FILE_S = 3600.0
"""A spool file older than this without any job was left by a submit that a crash cut short."""
_STEP_PAUSE_S = 0.01
"""Between two steps, so that clients who submit have their turn at the store."""


class Retention:
    """Runs beside the servers, in a thread; every step is short, so that it never holds the store for long."""

    def __init__(
        self, settings: Settings, store: Store, spool: Spool, pause: Callable[[float], bool] = lambda seconds: True
    ) -> None:
        """`pause` waits so many seconds between two steps and returns False when there should be no more."""
        self._settings = settings
        self._store = store
        self._spool = spool
        self._pause = pause
        self._clock = WallClock()

    def delete_expired(self) -> None:
        """Delete what is past its time and what nothing refers to any more."""
        if not self._clock.is_trusted():
            logger.warning("the clock was set: nothing is deleted for its age for %.0f minutes", DOUBT_AFTER_JUMP_S / 60)
            return
        self._run(self._expiry_steps())

    def walk(self) -> None:
        """Look through all that is known of the inbox, and all of the spool, for what nothing needs."""
        if self._clock.is_trusted():
            self._run(self._walk_steps())

    def tidy_home(self) -> None:
        """Delete what lies in this home alone and nothing needs, where another service deletes what all share."""
        if self._clock.is_trusted():
            self._run(self._home_steps())

    def _run(self, steps: Iterator[object]) -> None:
        try:
            for _ in steps:
                if not self._pause(_STEP_PAUSE_S):
                    return
        except BatchError as error:
            logger.error("nothing more is deleted for now: %s", error.message)

    def _expiry_steps(self) -> Iterator[object]:
        store = self._store
        for origin, before in expiry_times(self._settings).items():
            while deleted := store.expire(origin, before):
                yield deleted
        kept_s = self._settings.retention.notifications * 86400
        if kept_s:
            while deleted := NotificationStore(store).delete_ended(int(time.time() - kept_s)):
                yield deleted
        stores = (FileStore(store), ResponseStore(store), CompletionStore(store))
        for one in stores:
            while deleted := one.delete_expired():
                yield deleted
        cap = self._settings.retention.responses_bytes
        if cap and stored_bytes(store) > cap:
            # What conversations hold stays until those are deleted: no response makes room for it.
            for part in conversation_bytes(store):
                cap += part
                yield part
            while stored_bytes(store) > cap and (deleted := delete_least_used(store)):
                yield deleted
        while deleted := delete_orphans(store, self._spool):
            yield deleted
        while has_more := store.vacuum(keep=SPARE_PAGES):
            yield has_more

    def _walk_steps(self) -> Iterator[object]:
        yield from unreferenced_steps(self._store, self._spool)
        yield remove_left_over(self._settings.state_dir / "batches", self._store)
        before = expiry_times(self._settings).get(Origin.INBOX)
        if before is not None:
            yield from forget_left_files(LedgerRetention(self._store), before)

    def _home_steps(self) -> Iterator[object]:
        self._spool.delete_temporary(older_than=UNREFERENCED_SPOOL_FILE_S)
        yield remove_left_over(self._settings.state_dir / "batches", self._store)


class WallClock:
    """Notices when the wall clock is set while the service runs; a machine that slept is no jump."""

    def __init__(self) -> None:
        self._offset = self._now()
        self._doubt_until = 0.0

    @staticmethod
    def _now() -> float:
        """Wall clock minus running time."""
        return time.time() - _machine_uptime_s()

    def is_trusted(self) -> bool:
        """Whether ages can be told from the wall clock."""
        offset = self._now()
        if abs(offset - self._offset) > MAX_CLOCK_DRIFT_S:
            self._doubt_until = _machine_uptime_s() + DOUBT_AFTER_JUMP_S
        self._offset = offset
        return _machine_uptime_s() >= self._doubt_until


def _machine_uptime_s() -> float:
    """Seconds that the machine has run, sleep included where the system counts it."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def expiry_times(settings: Settings) -> dict[Origin, float]:
    """Unix time before which an origin's ended jobs go; origins that are kept for ever are absent."""
    days = settings.retention.model_dump()
    now = time.time()
    return {origin: now - days[origin] * 86400 for origin in Origin if days[origin] > 0}


def forget_left_files(ledger: LedgerRetention, before: float) -> Iterator[int]:
    """Forget, a slice at each step, files that left the inbox and whose jobs are gone; yields how many went."""
    for one, is_counted in ((ledger.forget_files, 1), (ledger.forget_contents, 0)):
        after: int | None = 0
        while after is not None:
            after, count = one(after, before)
            yield count * is_counted


def delete_orphans(store: Store, spool: Spool, *, fresh: float = FRESH_SPOOL_FILE_S, limit: int = 200) -> int:
    """Delete spool files that lost their last reference; returns how many went."""
    orphans = store.orphans(limit)
    names = [name for name in orphans if is_spool_name(name)]
    gone = spool.remove_unreferenced(names, store.referred, older_than=fresh)
    # A name that no file can have is forgotten: it would stand in the way of all others, for ever.
    gone += [name for name in orphans if not is_spool_name(name)]
    store.forget_orphans(gone)
    return len(gone)


def delete_unreferenced(store: Store, spool: Spool, *, older_than: float = UNREFERENCED_SPOOL_FILE_S) -> int:
    """Delete spool files that no job ever referred to; returns how many went."""
    return sum(unreferenced_steps(store, spool, older_than=older_than))


def unreferenced_steps(store: Store, spool: Spool, *, older_than: float = UNREFERENCED_SPOOL_FILE_S) -> Iterator[int]:
    """Delete, a slice of the spool or a part of it at each step, files that no job ever referred to; yields how many went."""
    spool.delete_temporary(older_than=older_than)
    for slice in spool.slices():
        for names in spool.unreferenced(slice, store.referred, older_than=older_than):
            yield len(spool.remove_unreferenced(names, store.referred, older_than=older_than))
