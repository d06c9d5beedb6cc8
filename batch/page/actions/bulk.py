"""What is done to many jobs: one after the other, beside everything else, and on in the background where it takes long."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice

from batch.errors import BatchError, Conflict
from batch.queue.hub.hub import Hub
from batch.queue.selection.job_filter import JobFilter

logger = logging.getLogger("batch.page")
PATIENCE_S = 2.0
"""After which a form is answered, and the rest goes on without it."""
_SLICE_JOBS = 200
Act = Callable[[str], Awaitable[None]]


class BulkActions:
    """One a service; one at a time, as two would work against each other."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._task: asyncio.Task[int] | None = None
        self.running: str | None = None
        """What goes on, for people; None when nothing does."""

    async def stop(self) -> None:
        """What is not done by now stays undone."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def run(self, name: str, choice: JobFilter | list[str], act: Act) -> int | None:
        """Do something to jobs by id, or to all that match; how many, or None where it goes on in the background.

        Raises Conflict while another such action goes on.
        """
        if self.running is not None:
            raise Conflict(f"Another action goes on ({self.running}): wait until it has ended.")
        self.running = name
        self._task = asyncio.create_task(self._run(choice, act), name="bulk action")
        self._task.add_done_callback(self._ended)
        ended, _ = await asyncio.wait({self._task}, timeout=PATIENCE_S)
        return self._task.result() if ended else None

    def _ended(self, task: asyncio.Task[int]) -> None:
        self.running = None
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("an action on many jobs ended early: %s", error)

    async def _run(self, choice: JobFilter | list[str], act: Act) -> int:
        store, number = self._hub.store, 0
        ids: Iterable[str] = iter(choice) if isinstance(choice, list) else store.ids_matching(choice)
        while some := await self._hub.in_thread(lambda: list(islice(ids, _SLICE_JOBS))):
            for id in some:
                with contextlib.suppress(Conflict):  # it has gone on since it was matched
                    try:
                        await act(id)
                    except BatchError as error:
                        if error.status == 404:  # it is kept no longer
                            continue
                        raise
                    number += 1
        return number
