"""Decoders that are kept for the next job."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from batch.media.decoder.process import DecoderProcess, Purpose


class DecoderPool:
    """Decoders for jobs that run inside one another or beside each other: each gets one of its own, and one is kept warm."""

    def __init__(self, purpose: Purpose) -> None:
        self._purpose: Purpose = purpose
        self._idle: list[DecoderProcess] = []
        self._lock = threading.Lock()

    def start(self) -> None:
        """Have one decoder load its libraries, while the caller goes on."""
        if not self._idle:
            self._idle.append(DecoderProcess(self._purpose))
        self._idle[0].start()

    @contextlib.contextmanager
    def lend(self) -> Iterator[DecoderProcess]:
        """A decoder for the time of the context."""
        with self._lock:
            decoder = self._idle.pop() if self._idle else DecoderProcess(self._purpose)
        try:
            yield decoder
        finally:
            with self._lock:
                is_kept = not self._idle
                if is_kept:
                    self._idle.append(decoder)
                    decoder.start()  # the next file need not wait for one that took the place of a lost one
            if not is_kept:
                decoder.close()

    def close(self) -> None:
        """End the decoders that are not lent."""
        while self._idle:
            self._idle.pop().close()
