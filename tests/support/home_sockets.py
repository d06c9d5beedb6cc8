"""The local sockets between a service and its worker, as a channel's two ends: so one suite asks all carriers the same."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import msgspec

from batch.payloads.json_text import encode
from batch.queue.channel import EventStream, WakeListener, Waker
from batch.queue.frames import Answered, Hello, WorkerFrame
from batch.queue.hub.worker_links import WorkerLinks
from batch.queue.jobs import Kind
from batch.queue.remote.channel import Receiver
from batch.queue.remote.packet import ForWorker, FromWorker, Item, Packet


class ServiceEnd:
    """The supervisor's end."""

    def __init__(self, state_dir: Path) -> None:
        self._links = WorkerLinks(
            state_dir,
            connected=self._connect,
            received=self._receive,
            row_changed=self._ignore,
            gone=lambda queue, worker: None,
        )
        self._waker = Waker(state_dir)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._sequence = 0
        self.is_connected = threading.Event()

    def open(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._links.start(), self._loop).result(10)

    def send(self, address: str, item: Item) -> None:
        assert isinstance(item, ForWorker)
        self._loop.call_soon_threadsafe(self._spawn, item)

    def wake(self, queues: set[str]) -> None:
        for queue in queues:
            self._waker.wake(queue)

    def close(self) -> None:
        async def hang_up() -> None:
            self._links.close()
            await asyncio.sleep(0.05)

        asyncio.run_coroutine_threadsafe(hang_up(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._waker.close()

    def _spawn(self, item: ForWorker) -> None:
        task = asyncio.ensure_future(self._ask(item))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, item: ForWorker) -> None:
        answer = await self._links.ask(item.worker, item.ask.question, 20.0)
        self._deliver(item.queue, Answered(number=item.ask.number, answer=msgspec.Raw(encode(answer))), item.worker)

    async def _connect(self, hello: Hello) -> None:
        self.is_connected.set()

    async def _ignore(self, job: str) -> None:
        pass

    def _receive(self, queue: str, frame: WorkerFrame, worker: str) -> None:
        self._deliver(queue, frame, worker)

    def _deliver(self, queue: str, frame: WorkerFrame, worker: str) -> None:
        self._sequence += 1
        item = FromWorker(worker=worker, queue=queue, frame=frame)
        self._receiver.packet(Packet(sender="w", sequence=self._sequence, items=[item]))


class WorkerEnd:
    """The worker's end; the service's must be open."""

    def __init__(self, state_dir: Path, service: str) -> None:
        self._state_dir, self._service = state_dir, service

    def open(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._listener = WakeListener(self._state_dir, Kind.VLM, lambda: receiver.wake(Kind.VLM))
        self._stream = EventStream(self._state_dir)
        self._stream.send(Hello(queue=Kind.VLM, pid=os.getpid(), worker="w"))
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()

    def send(self, address: str, item: Item) -> None:
        assert isinstance(item, FromWorker)
        if address == self._service:
            self._stream.send(item.frame)

    def wake(self, queues: set[str]) -> None:
        raise AssertionError("workers wake nobody")

    def close(self) -> None:
        self._listener._socket.close()
        self._thread.join(10)
        self._stream._socket.close()

    def _hear(self) -> None:
        for number, ask in enumerate(self._stream.questions(), 1):
            item = ForWorker(home=self._service, worker="w", queue=Kind.VLM, ask=ask)
            self._receiver.packet(Packet(sender="s", sequence=number, items=[item]))
