"""Watching this home's inbox, as long as no other service watches the same folder."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from batch.batches.rows import Batch
from batch.folder.service import FolderService
from batch.queue.duties.duty_store import inbox_duty
from batch.queue.duties.guarded_store import guarded
from batch.queue.hub.hub import Hub
from batch.queue.remote.inbox_id import MARK_NAME, REMEMBERED_NAME
from batch.settings import Settings
from batch.supervisor.duties.keeper import Duty


class InboxWork:
    """Begun and ended as often as the duty comes and goes."""

    def __init__(self, settings: Settings, hub: Hub) -> None:
        self._settings, self._hub = settings, hub
        self._name = inbox_duty(hub.store.inbox_scope.inbox or "")
        self._folder: FolderService | None = None

    def duty(self) -> Duty:
        """Of the keeper."""
        return Duty(
            name=self._name,
            begin=self._begin,
            end=self.stop,
            refusal=f"Another service watches the inbox {self._settings.inbox_dir}. A copy of a folder counts as the same one "
            f"until {MARK_NAME} in it and {self._settings.state_dir / REMEMBERED_NAME} are deleted.",
        )

    async def _begin(self, is_continued: bool) -> Sequence[asyncio.Task[None]]:
        folder = FolderService(self._settings, self._hub, store=guarded(self._hub.store, self._name))
        await folder.start()
        self._folder = folder  # only what has begun can be stopped
        return ()

    async def stop(self) -> None:
        """Take nothing new in, and finish what is being written."""
        folder, self._folder = self._folder, None
        if folder is not None:
            await folder.stop()

    def batch_ended(self, batch: Batch) -> None:
        """A batch has ended: it may be a file's of this inbox."""
        if self._folder is not None:
            self._folder.batch_ended(batch)
