"""What arrives at one home over a channel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from batch.payloads.chat import MessageDelta
from batch.payloads.events import Delta
from batch.queue.frames import Ask
from batch.queue.jobs import Kind
from batch.queue.remote.channel import Receiver
from batch.queue.remote.packet import ForWorker, FromWorker, Item, Packet


class Ears:
    """Filled by the channel's own threads."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []
        self.woken: list[str] = []
        self.reconnections = 0
        self.changed = threading.Condition()

    def receiver(self) -> Receiver:
        return Receiver(self.note_packet, self.note_wake, self.note_reconnection)

    def note_packet(self, packet: Packet) -> None:
        with self.changed:
            self.packets.append(packet)
            self.changed.notify_all()

    def note_wake(self, queue: str) -> None:
        with self.changed:
            self.woken.append(queue)
            self.changed.notify_all()

    def note_reconnection(self) -> None:
        with self.changed:
            self.reconnections += 1
            self.changed.notify_all()

    def wait(self, is_so: Callable[[], object], what: str, seconds: float = 30.0) -> None:
        with self.changed:
            assert self.changed.wait_for(is_so, seconds), what

    def items(self) -> list[Item]:
        return [item for packet in list(self.packets) for item in packet.items]

    def texts(self) -> list[str | None]:
        """The words that arrived."""
        return [i.frame.delta.content for i in self.items() if isinstance(i, FromWorker) and isinstance(i.frame, Delta)]

    def questions(self) -> list[ForWorker]:
        return [item for item in self.items() if isinstance(item, ForWorker)]


def word(text: str) -> FromWorker:
    """A word of a running job, as its worker's home sends it."""
    return FromWorker(worker="w", queue=Kind.VLM, frame=Delta(job="j", delta=MessageDelta(content=text)))


def question(home: str, ask: Ask) -> ForWorker:
    """A question of `home` to that worker."""
    return ForWorker(home=home, worker="w", queue=Kind.VLM, ask=ask)


def until(is_so: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
