"""What one home sends another: numbered packets, kept until it is known that they have arrived."""

from __future__ import annotations

import secrets
from collections import deque

from batch.queue.remote.packet import PacketWriter

MAX_KEPT_BYTES = 1 << 20
"""So much is kept of what was sent, beside the newest packet, however large that is."""
MAX_WAITING_BYTES = 16 << 20
"""The same with what could not be sent yet. What is dropped the receiver notices by a missing number."""


class Line:
    """One direction between two homes, whatever carries it."""

    def __init__(self) -> None:
        self._writer = PacketWriter(secrets.token_hex(8))
        self._items: deque[bytes] = deque()
        self._kept: deque[tuple[int, bytes]] = deque()
        self._kept_bytes = 0
        self._sent = self._acknowledged = 0

    @property
    def sender(self) -> str:
        """Under which name the packets are numbered."""
        return self._writer.sender

    @property
    def is_idle(self) -> bool:
        """Whether all that was added is known to have arrived."""
        return not self._items and not self._kept

    def add(self, item: bytes) -> None:
        """Put an item, as JSON, behind the others; may be called from any thread."""
        self._items.append(item)

    def pack(self) -> None:
        """Make packets of what was added."""
        items: list[bytes] = []
        while self._items:
            items.append(self._items.popleft())
        for packet in self._writer.packets(items):
            self._kept.append(packet)
            self._kept_bytes += len(packet[1])
        self._bound()

    @property
    def sent_sequence(self) -> int:
        """The number of the last packet that was sent."""
        return self._sent

    def acknowledge(self, sequence: int) -> None:
        """All packets up to this number have arrived."""
        self._acknowledged = max(self._acknowledged, sequence)
        while self._kept and self._kept[0][0] <= sequence:
            self._drop_first()

    def rewind(self) -> None:
        """What was sent and is not known to have arrived is to be sent again."""
        self._sent = self._acknowledged

    def next_packet(self) -> bytes | None:
        """The next one to send, which counts as sent from now on."""
        if not self._kept or self._kept[-1][0] <= self._sent:
            return None
        self._sent, packet = self._kept[max(0, self._sent + 1 - self._kept[0][0])]
        self._bound()
        return packet

    def _bound(self) -> None:
        while len(self._kept) > 1:
            limit = MAX_KEPT_BYTES if self._kept[0][0] <= self._sent else MAX_WAITING_BYTES
            if self._kept_bytes - len(self._kept[-1][1]) <= limit:
                break
            self._drop_first()

    def _drop_first(self) -> None:
        self._kept_bytes -= len(self._kept.popleft()[1])
