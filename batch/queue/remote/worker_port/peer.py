"""Another home as this one speaks with it: by a stream where there is one, and through the database where there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from batch.queue.remote.worker_port.line import Line
from batch.queue.remote.worker_port.stream import Stream

GRACE_S = 1.0
"""So long what is said waits for a stream that was cut a moment ago to come back, before it goes through the database."""
GATHER_S = 0.02
"""Over so long what is sent is put together: fifty times a second is more often than anybody sees."""
KEPT_BY_DATABASE_S = 60.0
"""So long what went through the database is kept, as a stream that begins meanwhile may overtake it; nobody acknowledges it."""
_MAX_STREAMS = 4
"""Two fronts may dial one another, and an old stream may not yet know that it is cut."""


class Peer:
    """Runs on the event loop of its channel, but for `Line.add`."""

    def __init__(self, by_database: Callable[[bytes], None]) -> None:
        """`by_database` sends a packet there in any case."""
        self.line = Line()
        self._by_database = by_database
        self._streams: list[Stream] = []
        self._is_by_database = True
        self._grace: asyncio.TimerHandle | None = None
        self._flush: asyncio.TimerHandle | None = None
        self._flushed_at = 0.0

    @property
    def has_stream(self) -> bool:
        """Whether a stream leads there now."""
        return bool(self._streams)

    def flush_soon(self) -> None:
        """Send what was added, at once or as soon as the last time is `GATHER_S` ago."""
        if self._flush is None:
            loop = asyncio.get_running_loop()
            wait = self._flushed_at + GATHER_S - loop.time()
            if wait <= 0:
                self.flush()
            else:
                self._flush = loop.call_later(wait, self.flush)

    def flush(self) -> None:
        """Send what was added."""
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        self._flushed_at = asyncio.get_running_loop().time()
        self.line.pack()
        if self._streams:
            self._streams[-1].send()
        elif self._is_by_database:
            self._send_by_database()

    def attach(self, stream: Stream) -> None:
        """A stream leads there now. The newest one is used: an older one may be cut without knowing it."""
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        self._is_by_database = False
        self._streams.append(stream)
        self._use_newest()
        if len(self._streams) > _MAX_STREAMS:
            self._streams[0].close()

    def detach(self, stream: Stream) -> None:
        """A stream is gone: another one takes over, or, after a moment, the database."""
        if stream not in self._streams:
            return
        self._streams.remove(stream)
        stream.is_current = False
        if self._streams:
            self._use_newest()
        elif self._grace is None:
            self._grace = asyncio.get_running_loop().call_later(GRACE_S, self.fall_back)

    def fall_back(self) -> None:
        """No stream will come soon: what is not known to have arrived goes through the database, and all that follows."""
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        if self._streams or self._is_by_database:
            return
        self.line.pack()
        self._is_by_database = True
        self.line.rewind()
        self._send_by_database()

    def _use_newest(self) -> None:
        for stream in self._streams:
            stream.is_current = stream is self._streams[-1]
        self._streams[-1].begin()

    def _send_by_database(self) -> None:
        while (packet := self.line.next_packet()) is not None:
            self._by_database(packet)
        asyncio.get_running_loop().call_later(KEPT_BY_DATABASE_S, self.line.acknowledge, self.line.sent_sequence)

    def wake(self, queues: set[str]) -> None:
        """Let its workers look, where a stream leads there."""
        if self._streams:
            self._streams[-1].wake(queues)
