"""What only one of several services on a database may do: begun when this one may, ended when another has taken it over."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from batch.queue.hub.hub import Hub
from batch.queue.nodes import RENEWALS_PER_LEASE
from batch.queue.store import WRITE_REFUSED, Store

logger = logging.getLogger("batch.supervisor")

LOOK_INTERVAL_S = 1.0
"""Between two tries to get what another service has."""
_JITTER_S = 0.5


@dataclass(frozen=True, slots=True)
class Duty:
    """Work of which a database's services do one another's only when the other is gone."""

    name: str
    """Under which it is held."""
    begin: Callable[[bool], Awaitable[Sequence[asyncio.Task[None]]]]
    """Takes it up, told whether this service was the last to have it; returns what must not end while it goes on."""
    end: Callable[[], Awaitable[None]]
    """Stops it, and leaves everything as whoever goes on needs it."""
    refusal: str
    """One sentence for the log where another service has it."""


class DutyKeeper:
    """One a service, on its event loop."""

    def __init__(self, store: Store, hub: Hub, duties: Sequence[Duty], presence: str) -> None:
        """`presence`: what is held besides, for as long as this service lives."""
        self._store, self._hub = store, hub
        self._duties = duties
        self._presence = presence
        self._names = sorted([presence, *(duty.name for duty in duties)])
        self._tasks: dict[str, Sequence[asyncio.Task[None]]] = {}
        """Of each duty that goes on."""
        self._refused: set[str] = set()
        """Duties of which the log says that another service has them."""
        self._renew_at = 0.0

    def has(self, name: str) -> bool:
        """Whether a duty goes on here. From any thread."""
        return name in self._tasks

    def of_one(
        self, name: str, work: Callable[[], object], *, otherwise: Callable[[], object] = lambda: None
    ) -> Callable[[], object]:
        """`work` where a duty is this service's, `otherwise` where it is another's. From any thread."""
        return lambda: work() if self.has(name) else otherwise()

    async def start(self) -> None:
        """Take up what this service may have. Raises what taking it up does, StoreAway, DiskFull."""
        held = await self._hub.in_thread(partial(self._store.hold, self._names))
        for duty in self._duties:
            if duty.name in held:
                self._tasks[duty.name] = await duty.begin(held[duty.name])
            else:
                self._refuse(duty)

    async def run(self) -> None:
        """Keep the duties, and take over those whose holder is gone, until cancelled. Raises what ends one of them."""
        while True:
            tasks = [task for of_one in self._tasks.values() for task in of_one]
            interval_s = self._interval_s()
            if tasks:
                ended, _ = await asyncio.wait(tasks, timeout=interval_s, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    task.result()
                    raise RuntimeError(f"{task.get_name()} ended")
            else:
                await asyncio.sleep(interval_s or LOOK_INTERVAL_S)
            if self._store.is_shared:
                await self._look()

    def _interval_s(self) -> float | None:
        if not self._store.is_shared:
            return None
        if len(self._tasks) == len(self._duties):
            return self._store.lease_s / RENEWALS_PER_LEASE
        return min(LOOK_INTERVAL_S + random.random() * _JITTER_S, self._store.lease_s / RENEWALS_PER_LEASE)

    async def _look(self) -> None:
        now, is_due = time.monotonic(), time.monotonic() >= self._renew_at
        # Between two renewals only for what is another's: whoever has it is not to be waited for for long.
        names = self._names if is_due else [duty.name for duty in self._duties if duty.name not in self._tasks]
        try:
            held = await self._hub.in_thread(partial(self._store.hold, names))
        except WRITE_REFUSED as error:
            # Nobody else can write either, or whoever can may take over: what this service writes then is refused.
            logger.debug("the duties are renewed later: %s", error.message)
            return
        if is_due:
            self._renew_at = now + self._store.lease_s / RENEWALS_PER_LEASE
        for duty in self._duties:
            if duty.name not in names:
                continue
            if duty.name in held and duty.name not in self._tasks:
                await self._take_over(duty, held[duty.name])
            elif duty.name not in held and duty.name in self._tasks:
                logger.error("%s It took over as this one was not heard of for long; this one answers requests.", duty.refusal)
                self._refused.add(duty.name)
                await self._end(duty)
            elif duty.name not in held:
                self._refuse(duty)

    def _refuse(self, duty: Duty) -> None:
        if duty.name not in self._refused:
            self._refused.add(duty.name)
            logger.warning("%s This one answers requests, and takes over when that one is gone.", duty.refusal)

    async def _take_over(self, duty: Duty, is_continued: bool) -> None:
        try:
            self._tasks[duty.name] = await duty.begin(is_continued)
        except Exception:
            logger.exception("what another service has left cannot be taken up; it is tried again")
            await self._end(duty)
            with contextlib.suppress(*WRITE_REFUSED):  # then it is another's once its time is over
                await self._hub.in_thread(partial(self._store.release, [duty.name]))
        else:
            self._refused.discard(duty.name)
            logger.warning("this service has taken over: %s", duty.name)

    async def _end(self, duty: Duty) -> None:
        tasks = self._tasks.pop(duty.name, ())
        try:
            await duty.end()
        except Exception:
            logger.exception("what another service does now could not be stopped as it should: its writes are refused")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def stop(self) -> None:
        """End all that goes on, and let another service have it at once."""
        for duty in reversed(self._duties):
            if duty.name in self._tasks:
                await self._end(duty)

    def release(self) -> None:
        """Let another service have it all. Blocking. Raises StoreAway, DiskFull."""
        self._store.release(self._names)
