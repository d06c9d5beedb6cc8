"""The automatic backup of the database."""

from __future__ import annotations

import logging
import time

from batch.errors import BatchError
from batch.queue.store import Store
from batch.settings import Settings
from batch.supervisor.service_notes import write_note

logger = logging.getLogger("batch.supervisor")


class Backup:
    """Copies the database when the last copy is old; called by the hour and at the start."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings.queue
        self._store = store
        self._target = settings.backup
        self._has_warned = False

    def make_if_due(self) -> None:
        """Make a copy unless there is a young one, and note its time for `batch status`."""
        if self._store.is_shared:
            return  # pg_dump, and Postgres' own archiving, are its operator's
        made_at = self._target.stat().st_mtime if self._target.exists() else 0.0
        interval_s = self._settings.backup_hours * 3600
        if interval_s and not 0 <= time.time() - made_at < interval_s:
            made_at = self._copy() or made_at
        write_note(self._store, "backup", {"at": made_at} if made_at else None)

    def _copy(self) -> float | None:
        try:
            size = self._store.back_up(self._target, max_bytes=self._settings.backup_bytes)
        except BatchError as error:
            logger.error("the database could not be copied: %s", error.message)
            return None
        if size is None and not self._has_warned:
            self._has_warned = True
            logger.warning("the database is larger than queue.backup_bytes and is not copied by itself: `batch backup` does it")
        return None if size is None else time.time()
