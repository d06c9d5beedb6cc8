"""Background responses: they work on whatever happens to the connection, and to the service.

Every event is in the log before anybody is sent it, so a stream can be taken up again at any number. After a crash the
job runs again: what the log holds is held back as long as it is the same, which the seed drawn at the start sees to.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec

from batch.api.generation.jobs import chat_queue, model_name
from batch.api.jobs.answer_ids import follow_job
from batch.api.jobs.stream_resume import StreamResume
from batch.api.responses.events import ResponseEvents
from batch.api.responses.replay import LoggedDeltas
from batch.api.responses.request import ResponsesBody
from batch.api.responses.response import ResponseObject, failed_response, started_response
from batch.api.responses.stored_run import StoredRun, output_items
from batch.conversations.response_store import ResponseStore
from batch.conversations.rows import Item, StoredResponse
from batch.errors import BatchError, DiskFull, Unavailable
from batch.model_kind import model_of
from batch.payloads.chat import ChatPayload, ChatResult
from batch.payloads.events import Delta, Started
from batch.payloads.json_text import encode
from batch.queue.duties.guarded_store import DutyLost, guarded_by_job
from batch.queue.frames import End
from batch.queue.hub.hub import Hub
from batch.queue.hub.ticket import Ticket
from batch.queue.jobs import Draft, Origin, Priority
from batch.queue.store import StoreAway

logger = logging.getLogger("batch.api")

FOLLOW_LOOK_S = 1.0
"""Seconds after which a follower looks at the log by itself."""
DISK_RETRY_S = 2.0
MAX_SEED = 1 << 31


class BackgroundResponses:
    """One a service, on its event loop."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._store = ResponseStore(hub.store)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._changed: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        """Set and replaced when a response's log has grown, by its id."""

    async def start(self) -> None:
        """Take up what the last service of this home left."""
        await self._hub.in_thread(self._store.abandon_foreground)
        for response in await self._hub.in_thread(self._store.running):
            self._run(response.id, msgspec.json.decode(response.request, type=ResponsesBody), response)

    async def adopt(self, front: str) -> None:
        """Take up what a service of another home left, which is gone."""
        for response in await self._hub.in_thread(lambda: self._store.adopt(front)):
            if response.id not in self._tasks:
                self._run(response.id, msgspec.json.decode(response.request, type=ResponsesBody), response)

    async def stop(self) -> None:
        """Leave everything as it is for the next start."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def submit(
        self,
        body: ResponsesBody,
        payload: ChatPayload,
        blobs: tuple[str, ...],
        items: Sequence[Item],
        created: int,
        lifetime_s: int | None,
    ) -> ResponseObject:
        """Accept a background response; durable when it returns. Raises ConversationLocked, DiskFull."""
        if payload.generation.seed is None:
            generation = msgspec.structs.replace(payload.generation, seed=random.randrange(MAX_SEED))
            payload = msgspec.structs.replace(payload, generation=generation)
        priority = Priority.BATCH if body.is_bulk else Priority.LARGE_REQUEST
        queue = chat_queue(self._hub, body.model_name)
        draft = Draft(payload, Origin.HTTP, priority, blobs=blobs, model=model_of(queue))
        follow_job(draft.id)
        response = started_response(body, model_name(self._hub, body.model_name), created)
        response = msgspec.structs.replace(response, status="queued")
        run = StoredRun(self._hub, body, response, items)
        # In place before the job is: its first words may come before the row that tells of it is read.
        ticket = self._hub.tickets.add(Ticket(self._hub, draft.id, queue), waited=False)
        try:
            await run.create(draft.id, lifetime_s, draft)
            stored = await self._hub.in_thread(lambda: self._store.response(response.id))
        except BaseException:
            self._hub.tickets.remove(draft.id)
            raise
        self._run(response.id, body, stored, ticket)
        return response

    async def cancel(self, response: StoredResponse) -> None:
        """Stop a running response, and wait until its end is written."""
        if response.job is not None:
            with contextlib.suppress(BatchError):
                await self._hub.cancel(response.job)
        if task := self._tasks.get(response.id):
            await asyncio.wait({task}, timeout=10)

    async def follow(self, id: str, above: int) -> AsyncIterator[list[tuple[int, bytes]]]:
        """Events of a response with numbers above one, as they come, until its end."""
        while True:
            changed = self._changed[id]
            events = await self._hub.in_thread(lambda: self._store.events(id, above))  # noqa: B023  # awaited at once
            if events:
                above = events[-1][0]
                yield events
                continue
            response = await self._hub.in_thread(lambda: self._store.response(id))
            if response.is_ended and not await self._hub.in_thread(lambda: self._store.events(id, above)):  # noqa: B023
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), FOLLOW_LOOK_S)

    # -- running

    def _run(self, id: str, body: ResponsesBody, response: StoredResponse, ticket: Ticket | None = None) -> None:
        task = self._tasks[id] = asyncio.create_task(self._follow_job(id, body, response, ticket))
        task.add_done_callback(lambda _: self._tasks.pop(id, None))

    async def _follow_job(self, id: str, body: ResponsesBody, stored: StoredResponse, ticket: Ticket | None) -> None:
        try:
            store = ResponseStore(guarded_by_job(self._hub.store, stored.job or ""))
            await _BackgroundRun(self, self._hub, store, body, stored).run(ticket)
        except Unavailable:
            return  # the service ends, or another has taken this up: that one goes on
        except Exception:
            logger.exception("the background response %s broke", id)
            response = msgspec.json.decode(stored.data, type=ResponseObject)
            broken = BatchError("Something in the service broke; its log says what.")
            failed = failed_response(response, broken, response.output)
            await self._hub.in_thread(lambda: self._store.end(id, "failed", encode(failed), output_items(failed)))
        finally:
            self.publish(id)

    def publish(self, id: str) -> None:
        """Wake who follows a response."""
        self._changed.pop(id, asyncio.Event()).set()


class _BackgroundRun:
    """Follows one response's job from where its log stands."""

    def __init__(
        self, owner: BackgroundResponses, hub: Hub, store: ResponseStore, body: ResponsesBody, stored: StoredResponse
    ) -> None:
        self._owner, self._hub, self._store, self._body, self._stored = owner, hub, store, body, stored
        self._resume = StreamResume()

    async def run(self, ticket: Ticket | None = None) -> None:
        """Until the job has ended and the response's end is written. `ticket`: of a job that this service submitted."""
        assert self._stored.job is not None
        follow_job(self._stored.job)
        response = started_response(self._body, model_name(self._hub, self._body.model_name), self._stored.created_at)
        self._serializer = ResponseEvents(self._body, msgspec.structs.replace(response, status="queued"))
        await self._catch_up()
        log: list[tuple[int, bytes]] = []
        self._serializer.log = log
        self._serializer.announce()
        await self._flush(log)
        ticket = ticket or await self._hub.follow(self._stored.job, chat_queue(self._hub, self._body.model_name))
        try:
            async for burst in ticket.bursts():
                for event in burst:
                    if isinstance(event, End):
                        result = await self._hub.outcome(ticket.id, ChatResult, event)
                        for delta in self._resume.missing(result):
                            self._serializer.event(0, delta)
                        self._serializer.finish(0, result)
                        break
                    if isinstance(event, Started):
                        await self._begin()
                    if (unsent := self._resume.unsent(event)) is not None:
                        self._serializer.event(0, unsent)
                if self._serializer.response.status in ("queued", "in_progress"):
                    await self._flush(log)
        except Unavailable:
            raise
        except BatchError as error:
            self._serializer.error(error)
        await self._end(log)

    async def _catch_up(self) -> None:
        """Bring the serializer to where the log ends, without writing anything again."""
        above, logged = -1, LoggedDeltas()
        while events := await self._hub.in_thread(lambda: self._store.events(self._stored.id, above)):  # noqa: B023
            above = events[-1][0]
            self._serializer.announce()
            for delta in logged.read(events):
                event = Delta(delta=delta)
                self._resume.unsent(event)
                self._serializer.event(0, event)

    async def _begin(self) -> None:
        response = msgspec.structs.replace(self._serializer.response, status="in_progress")
        await self._write(lambda: self._store.begin(self._stored.id, encode(response)))

    async def _flush(self, log: list[tuple[int, bytes]]) -> None:
        """Write new events to the log, then let followers read them."""
        if log:
            events = list(log)
            log.clear()
            await self._write(lambda: self._store.log_events(self._stored.id, events))
            self._owner.publish(self._stored.id)

    async def _end(self, log: list[tuple[int, bytes]]) -> None:
        response = self._serializer.response
        events, output = list(log), output_items(response)
        await self._write(lambda: self._store.end(self._stored.id, response.status, encode(response), output, events=events))

    async def _write(self, work: Callable[[], object]) -> None:
        """Write down what has come; a disk that is full is waited for, as the job goes on meanwhile."""
        complaint = ""
        while True:
            try:
                await self._hub.in_thread(work)
                return
            except DutyLost:
                raise
            except (DiskFull, StoreAway) as error:
                if error.message != complaint:
                    logger.error("the background response %s waits: %s", self._stored.id, error.message)
                complaint = error.message
                await asyncio.sleep(DISK_RETRY_S)
