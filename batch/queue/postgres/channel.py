"""Packets and wake-ups by Postgres' own NOTIFY: nothing else has to be reachable between two machines.

A NOTIFY never stands in a transaction that must reach the disk: Postgres holds one lock for all notifying commits over that.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
import psycopg

from batch.model_kind import Kind, is_queue
from batch.payloads.json_text import decode, encode
from batch.queue.latest import Latest
from batch.queue.postgres.connection_info import connect, is_pooled
from batch.queue.postgres.error_mapping import to_batch_error
from batch.queue.postgres.liveness.answer_watch import ANSWER_WATCH
from batch.queue.remote.channel import EVERY_FRONT, Receiver
from batch.queue.remote.packet import MAX_PACKET_BYTES, Item, Packet, PacketWriter
from batch.queue.store import StoreAway

Connection = psycopg.Connection[tuple[Any, ...]]

logger = logging.getLogger("batch.queue")

GATHER_S = 0.02
"""Over so long what is sent is put together: fifty times a second is more often than anybody sees."""
MAX_WAITING_BYTES = 1 << 20
"""So much waits for a database that is away; beyond it the oldest goes, which receivers notice by a missing number."""
_WAKE = "wake"
_LISTEN_SLICE_S = 0.5
_RETRY_S = 0.5
_IDLE_S = 60.0
_FRAME_LIFE_S = 300.0
_SWEEP_INTERVAL_S = 60.0
_TEST_TIMEOUT_S = 3.0
_DEAF = (
    "The database is reached through a pooler that lets no notification through: set listen_database to an address that leads "
    "to the database itself."
)


def _name(address: str) -> str:
    return f"batch_{address}"


class PostgresChannel:
    """The Channel Protocol: two threads with a connection each, one that sends and one that listens."""

    def __init__(self, url: str, home: str, *, is_front: bool, listen_url: str = "") -> None:
        """`home`: this one's id. `listen_url`: an address that leads to the database itself, where `url` leads to a pooler."""
        self._url, self._listen_url = url, listen_url or url
        self._home = home
        self._addresses = (home, _WAKE, EVERY_FRONT) if is_front else (home, _WAKE)
        self._items: deque[tuple[str, bytes]] = deque()
        self._packets: deque[tuple[str, bytes]] = deque()
        self._queues: deque[str] = deque()
        """A deque, as any thread adds to it while one empties it."""
        self._writers = Latest[str, PacketWriter]()
        self.chore: Callable[[Connection], None] = lambda conn: None
        """Called about twice a second with the connection that listens, and may raise psycopg's errors."""
        self._unsent: deque[tuple[str, bytes]] = deque()
        """(address, packet or wake-up) of which it is not known whether they have arrived."""
        self.connection: Connection | None = None
        """The one that is sent by at the moment."""
        self._arrived = threading.Event()
        self._is_closed = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        """The database's address."""
        return self._url

    def open(self, receiver: Receiver) -> None:
        """Begin to receive. Raises StoreAway where the database is away, or where a pooler swallows notifications."""
        if is_pooled(self._listen_url):
            raise StoreAway(_DEAF)
        try:
            listening = self._listen()
            with contextlib.closing(connect(self._url)) as conn:
                conn.execute("select pg_notify(%s, '')", (_name(self._home),))
            if not any(
                notify.channel == _name(self._home) for notify in listening.notifies(timeout=_TEST_TIMEOUT_S, stop_after=1)
            ):
                listening.execute("unlisten *")  # or the connection's next client would listen
                listening.close()
                raise StoreAway(_DEAF)
        except psycopg.Error as error:
            raise to_batch_error(error) from error
        for work, arguments in ((self._send_all, ()), (self._receive_all, (listening, receiver))):
            thread = threading.Thread(target=work, args=arguments, name="channel", daemon=True)
            thread.start()
            self._threads.append(thread)

    def send(self, address: str, item: Item) -> None:
        """Send to a home or to all fronts; in order for one address, gathered for some milliseconds."""
        self._items.append((address, encode(item)))
        self._arrived.set()

    def carry(self, address: str, packet: bytes) -> None:
        """Send a packet that its sender has numbered."""
        self._packets.append((address, packet))
        self._arrived.set()

    def wake(self, queues: set[str]) -> None:
        """Let the workers of these queues look, wherever they are."""
        self._queues.extend(queues)
        self._arrived.set()

    def close(self) -> None:
        """Send what waits, for a second at most, and hang up."""
        self._is_closed.set()
        self._arrived.set()
        for thread in self._threads:
            thread.join(1.0 + _LISTEN_SLICE_S)

    # -- the thread that sends

    def _send_all(self) -> None:
        conn: Connection | None = None
        has_logged = False
        ANSWER_WATCH.add(self)
        while True:
            if not self._arrived.wait(_IDLE_S) and conn is not None:  # who has nothing to say holds one connection less
                conn.close()
            is_last = self._is_closed.is_set()
            self._arrived.clear()
            self._pack()
            try:
                if self._unsent:
                    conn = self.connection = conn if conn is not None and not conn.closed else connect(self._url)
                    self._send(conn)
                has_logged = False
            except (psycopg.Error, StoreAway) as error:
                if not has_logged:
                    logger.error("other homes cannot be told anything: %s", error)
                has_logged = True
                if conn is not None:
                    conn.close()
                self._drop_oldest()
                self._arrived.set()
                if not is_last:
                    self._is_closed.wait(_RETRY_S)
            if is_last:
                break
            self._is_closed.wait(GATHER_S)
        if conn is not None:
            conn.close()

    def _send(self, conn: Connection) -> None:
        packets = list(self._unsent)
        with conn.transaction():
            conn.execute("set local synchronous_commit = off")
            for address, data in packets:
                text = data
                if len(data) > MAX_PACKET_BYTES:
                    row = conn.execute("select worker_send_frame(%s, %s)", (address, data))
                    text = b"#%d" % int(str(row.fetchall()[0][0]))
                conn.execute("select pg_notify(%s, %s)", (_name(address), text.decode()))
        for _ in packets:
            self._unsent.popleft()

    def _pack(self) -> None:
        """Turn what waits into packets of one address each."""
        queues: dict[str, None] = {}
        while self._queues:
            queues[self._queues.popleft()] = None
        self._unsent.extend((_WAKE, str(queue).encode()) for queue in queues)
        while self._packets:
            self._unsent.append(self._packets.popleft())
        items: dict[str, list[bytes]] = {}
        while self._items:
            address, data = self._items.popleft()
            items.setdefault(address, []).append(data)
        for address, datas in items.items():
            writer = self._writers.get(address) or PacketWriter(secrets.token_hex(8))
            self._writers[address] = writer  # those that were written to last stay
            self._unsent.extend((address, packet) for _, packet in writer.packets(datas))

    def _drop_oldest(self) -> None:
        size = sum(len(data) for _, data in self._unsent)
        while self._unsent and size > MAX_WAITING_BYTES:
            size -= len(self._unsent.popleft()[1])

    # -- the thread that listens

    def _listen(self) -> Connection:
        conn = connect(self._listen_url)
        for address in self._addresses:
            conn.execute(f'listen "{_name(address)}"'.encode())
        return conn

    def _receive_all(self, conn: Connection, receiver: Receiver) -> None:
        next_sweep = time.monotonic() + _SWEEP_INTERVAL_S
        has_logged = False
        while not self._is_closed.is_set():
            try:
                if conn.closed:
                    conn = self._listen()
                    logger.warning("other homes are heard again")
                    receiver.reconnected()
                    for kind in Kind:  # first listen, then look
                        receiver.wake(kind)
                # As a list: while psycopg yields them, the connection is locked.
                for notify in list(conn.notifies(timeout=_LISTEN_SLICE_S, stop_after=1)):
                    self._receive(conn, notify.channel, notify.payload, receiver)
                self.chore(conn)
                if time.monotonic() > next_sweep:
                    next_sweep = time.monotonic() + _SWEEP_INTERVAL_S
                    conn.execute("select worker_sweep_frames(%s)", (_FRAME_LIFE_S,))
                has_logged = False
            except psycopg.ProgrammingError as error:  # no tables yet, or no rights: it hears nevertheless
                if not has_logged:
                    logger.error("the database does not serve this machine yet: %s", to_batch_error(error))
                has_logged = True
                self._is_closed.wait(_RETRY_S)
            except psycopg.Error as error:
                if not conn.closed:
                    conn.close()
                    logger.error("other homes cannot be heard: %s", to_batch_error(error))
                self._is_closed.wait(_RETRY_S)
            except Exception:
                logger.exception("a packet could not be read")
        conn.close()

    def _receive(self, conn: Connection, channel: str, payload: str, receiver: Receiver) -> None:
        if channel == _name(_WAKE):
            if is_queue(payload):
                receiver.wake(payload)
            return
        if not payload:
            return  # the test at the start
        data: object = payload
        if payload.startswith("#"):
            address = channel.removeprefix(_name(""))
            ((data,),) = conn.execute("select worker_take_frame(%s, %s)", (int(payload[1:]), address)).fetchall()
            if data is None:
                return  # swept: its number is missing
        try:
            receiver.packet(decode(bytes(data) if not isinstance(data, str) else data, Packet))  # type: ignore[call-overload]
        except msgspec.ValidationError as error:  # of another version of batch
            logger.warning("a packet that another version of batch sent is passed over: %s", error)
