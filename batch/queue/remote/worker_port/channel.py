"""Between homes that share a database: by TLS to each front that opens a port for it, by NOTIFY where that is not reached."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from batch.errors import BatchError
from batch.model_kind import is_queue
from batch.payloads.json_text import encode
from batch.queue.postgres.channel import Connection, PostgresChannel
from batch.queue.remote.arrived_packets import ArrivedPackets
from batch.queue.remote.channel import EVERY_FRONT, Receiver
from batch.queue.remote.packet import Item, Packet
from batch.queue.remote.worker_port.dialer import Dialer, describe
from batch.queue.remote.worker_port.frame import Carried, PortFrame, Wakened
from batch.queue.remote.worker_port.line import Line
from batch.queue.remote.worker_port.peer import Peer
from batch.queue.remote.worker_port.port import WorkerPort
from batch.queue.remote.worker_port.port_rows import FrontPort, NonceReader, announce_port, look_for_ports
from batch.queue.remote.worker_port.stream import Stream

logger = logging.getLogger("batch.queue")

LOOK_INTERVAL_S = 5.0
"""Between two looks for fronts that have a port."""
FIRST_LOOKS_INTERVAL_S = 1.0
"""The same at first, as fronts and workers start beside one another, and after one could not be reached."""
_FIRST_LOOKS_S = 30.0
_CLOSE_S = 1.0
_PAUSE_PER_WAKE = 9.0
"""After homes were woken for so many times as long as that took no more are: a thousand of them would take the whole thread."""
MAX_PEERS = 10_000
"""More homes than are there at a time; those that were not heard of for longest go, unless a stream leads there."""


class StreamChannel:
    """The Channel Protocol: a thread with an event loop for the streams, and the database's own channel beside it."""

    def __init__(
        self,
        database: PostgresChannel,
        home: str,
        lease_s: float,
        *,
        port: WorkerPort | None = None,
        nonces: NonceReader | None = None,
    ) -> None:
        """`home`: this one's id. `lease_s`: how long workers hold jobs without being heard of. `port` and `nonces`: those of a
        front that lets workers dial it."""
        self._database = database
        self._home = home
        self._lease_s = lease_s
        self._port, self._nonces = port, nonces
        self._announced: FrontPort | None = None
        self._lookups = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="nonces")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="streams", daemon=True)
        self._peers: OrderedDict[str, Peer] = OrderedDict()
        """Those that were heard of longest ago first. None is left out for a moment: other threads look at all of them."""
        self._peers_lock = threading.Lock()
        self._arrived = ArrivedPackets()
        """On whatever way."""
        self._dialer = Dialer(home, line_to=self._line_to, serve=self._serve, unreachable=self._unreachable)
        self._next_look_at = self._next_announcement_at = 0.0
        self._queues_to_wake: set[str] = set()
        self._wake_timer: asyncio.TimerHandle | None = None
        self._next_wake_at = 0.0
        self._opened_at = time.monotonic()
        self._is_closed = False

    # -- the Protocol

    def open(self, receiver: Receiver) -> None:
        """Begin to receive. Raises StoreAway where the database is away, or where a pooler swallows notifications, and what
        opening the port raises."""
        if self._port is not None:
            self._announced = self._announced or self._port.bind()
        self._receiver = receiver
        self._database.chore = self._look
        if not self._thread.is_alive():
            self._thread.start()
        self._database.open(Receiver(self._receive_by_database, receiver.wake, receiver.reconnected))
        if self._port is not None:
            self._on_loop(self._let_in)

    def send(self, address: str, item: Item) -> None:
        """Send to a home or to all fronts; in order for one address, gathered for some milliseconds."""
        if address == EVERY_FRONT:
            self._database.send(address, item)
            return
        peer = self._peer(address)
        peer.line.add(encode(item))
        self._on_loop(peer.flush_soon)

    def wake(self, queues: set[str]) -> None:
        """Let the workers of these queues look, wherever they are: at once those that a stream leads to."""
        self._on_loop(self._wake, set(queues))
        self._database.wake(queues)

    def close(self) -> None:
        """Send what waits, for a second at most, and hang up."""
        self._is_closed = True
        if self._thread.is_alive():
            with contextlib.suppress(TimeoutError, concurrent.futures.CancelledError):
                asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(_CLOSE_S * 4)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_CLOSE_S)
        elif self._port is not None:
            self._port.unbind()
        self._lookups.shutdown(wait=True)
        if self._nonces is not None:
            with contextlib.suppress(BatchError):
                self._nonces.withdraw(self._home)
            self._nonces.close()
        self._database.close()

    # -- threads

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _on_loop(self, work: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # closed meanwhile
            self._loop.call_soon_threadsafe(work, *arguments)

    def _peer(self, home: str) -> Peer:
        with self._peers_lock:
            peer = self._peers.get(home)
            if peer is None:
                peer = self._peers[home] = Peer(lambda packet: self._database.carry(home, packet))
            self._peers.move_to_end(home)
            if len(self._peers) > MAX_PEERS:
                del self._peers[next((name for name, old in self._peers.items() if not old.has_stream), home)]
            return peer

    def _line_to(self, home: str) -> Line:
        return self._peer(home).line

    def _look(self, conn: Connection) -> None:
        """On the thread that listens to the database, so that no machine needs a connection more."""
        now = time.monotonic()
        if self._announced is not None and now >= self._next_announcement_at and not self._is_closed:
            announce_port(conn, self._announced)
            self._next_announcement_at = now + LOOK_INTERVAL_S
        if now >= self._next_look_at:
            self._on_loop(self._dialer.refresh, look_for_ports(conn, self._home, self._dialer.nonce, self._lease_s))
            is_new = now - self._opened_at < _FIRST_LOOKS_S
            self._next_look_at = now + (FIRST_LOOKS_INTERVAL_S if is_new else LOOK_INTERVAL_S * (0.75 + random.random() / 2))

    # -- on the event loop

    def _let_in(self) -> None:
        assert self._port is not None
        self._port.start(nonces=self._nonces_of, line_to=self._line_to, serve=self._serve)

    async def _nonces_of(self, home: str) -> list[str]:
        assert self._nonces is not None
        return await self._loop.run_in_executor(self._lookups, self._nonces.nonces, home)

    async def _serve(self, stream: Stream) -> None:
        peer = self._peer(stream.home)
        peer.attach(stream)
        try:
            error = await stream.run(self._receive, self._arrived.last(stream.their_sender))
            logger.info("the stream to home %s has ended: %s", stream.home, describe(error))
        finally:
            peer.detach(stream)

    def _unreachable(self, home: str) -> None:
        self._peer(home).fall_back()
        self._next_look_at = min(self._next_look_at, time.monotonic() + FIRST_LOOKS_INTERVAL_S)

    def _wake(self, queues: set[str]) -> None:
        self._queues_to_wake |= queues
        if self._wake_timer is None:
            self._wake_timer = self._loop.call_later(max(0.0, self._next_wake_at - self._loop.time()), self._wake_peers)

    def _wake_peers(self) -> None:
        self._wake_timer = None
        queues, self._queues_to_wake = self._queues_to_wake, set()
        begun = self._loop.time()
        for peer in list(self._peers.values()):
            peer.wake(queues)
        now = self._loop.time()
        self._next_wake_at = now + _PAUSE_PER_WAKE * (now - begun)

    def _receive(self, stream: Stream, frame: PortFrame) -> None:
        match frame:
            case Carried():
                self._receive_packet(frame.packet)
                stream.acknowledge(frame.packet.sender, self._arrived.last(frame.packet.sender))
            case Wakened():
                for queue in filter(is_queue, frame.queues):  # it becomes the name of a file
                    self._receiver.wake(queue)
            case _:
                pass

    def _receive_by_database(self, packet: Packet) -> None:
        self._on_loop(self._receive_packet, packet)

    def _receive_packet(self, packet: Packet) -> None:
        """Hand on what has not arrived on another way before."""
        if self._arrived.add(packet):
            self._receiver.packet(packet)

    async def _close(self) -> None:
        peers = list(self._peers.values())
        for peer in peers:
            peer.flush()
        deadline = self._loop.time() + _CLOSE_S
        while self._loop.time() < deadline and any(peer.has_stream and not peer.line.is_idle for peer in peers):
            await asyncio.sleep(0.01)
        await self._dialer.close()
        if self._port is not None:
            await self._port.close()
        for peer in peers:
            peer.fall_back()
