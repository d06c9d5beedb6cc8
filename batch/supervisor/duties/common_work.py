"""What one service does for all that share its database: batches, notifications, and what silent services have left."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from batch.api.responses.background import BackgroundResponses
from batch.batches.service import BatchService
from batch.folder.file_names import result_stem
from batch.notifications.service import NotificationService
from batch.queue.duties.duty_store import COMMON_DUTY
from batch.queue.hub.hub import Hub
from batch.settings import Settings
from batch.supervisor.duties.keeper import Duty
from batch.supervisor.duties.silent_fronts import SilentFronts


class CommonWork:
    """Begun and ended as often as the duty comes and goes."""

    def __init__(self, settings: Settings, hub: Hub, batches: BatchService, background: BackgroundResponses) -> None:
        self._settings, self._hub = settings, hub
        self._batches, self._background = batches, background
        self._notifications: NotificationService | None = None

    def duty(self) -> Duty:
        """Of the keeper."""
        return Duty(
            name=COMMON_DUTY,
            begin=self._begin,
            end=self._end,
            refusal="Another service on this database runs its batches and sends its notifications.",
        )

    async def _begin(self, is_continued: bool) -> Sequence[asyncio.Task[None]]:
        if not is_continued:
            await asyncio.to_thread(self._batches.forget_growing_files)
        self._notifications = NotificationService(self._settings, self._hub, result_stem=result_stem)
        tasks = [
            asyncio.create_task(self._batches.run(), name="batches"),
            asyncio.create_task(self._notifications.run(), name="notifications"),
        ]
        if self._hub.store.is_shared:
            silent_fronts = SilentFronts(self._hub, self._background)
            tasks.append(asyncio.create_task(silent_fronts.run(), name="silent fronts"))
        return tasks

    def stop_notifications(self) -> None:
        """Begin to tell nobody more; what is unsent goes on where the duty is taken up next."""
        if self._notifications is not None:
            self._notifications.stop()
            self._notifications = None

    async def _end(self) -> None:
        self.stop_notifications()
