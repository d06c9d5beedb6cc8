"""Pictures of jobs, decoded in a process of their own: one that is hostile or broken ends its job, not the worker."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from batch.errors import BatchError
from batch.media.decoder.pixel_memory import Pixels
from batch.media.decoder.pool import DecoderPool
from batch.media.decoder.process import KEPT_PIXEL_BYTES, DecoderProcess
from batch.payloads.chat import ChatPayload, ImagePart
from batch.payloads.job_payload import Payload
from batch.settings import LimitSettings
from batch.workers.engine import Work

MAX_AHEAD_PIXEL_BYTES = KEPT_PIXEL_BYTES
"""Behind a larger picture none is decoded ahead: its pixels would have to be copied first."""
GIVE_WAY_S = 0.02
"""So long a picture that nobody expected waits for the decoder to end with one that it decodes ahead: most take less, and a
second decoder takes longer to start."""


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A picture that is decoded before it is asked for."""

    path: Path
    decoder: DecoderProcess
    lent: contextlib.ExitStack
    """Gives the decoder back."""


class PictureReader:
    """Keeps a decoder warm. For one thread: pixels stand in memory that the next picture overwrites."""

    def __init__(self, limits: LimitSettings) -> None:
        """`limits`: how many pixels and bytes a picture may have."""
        self._limits = limits
        self._decoders = DecoderPool("image")
        self._expected: deque[Path] = deque()
        """Asked for soon, in this order."""
        self._ahead: _Ahead | None = None
        self._done: tuple[Path, Pixels] | None = None
        """Decoded ahead; it had to make room for one that was not expected."""

    def start(self) -> None:
        """Have a decoder load its libraries, while the caller goes on."""
        self._decoders.start()

    def read(self, work: Work, sha256: str) -> Pixels:
        """A job's picture, upright; what it returns is overwritten by the next picture.

        While a slow one is decoded the job passes its yield point, so that it can be cancelled and overtaken. Raises
        BatchError, and what a yield point raises.
        """
        return self.decode(work.spool_path(sha256), work.yield_point)

    def decode(self, path: Path, look_up: Callable[[], object]) -> Pixels:
        """A picture file, as `read` does; `look_up` is called now and then, and what it raises ends the reading."""
        if path in self._expected:
            self._expected.remove(path)
        if self._done is not None and self._done[0] == path:
            (_, pixels), self._done = self._done, None
        elif self._ahead is not None and self._ahead.path == path:
            pixels = self._end_ahead(look_up)
        else:
            self._give_way()
            with self._decoders.lend() as decoder:
                pixels = decoder.image(path, self._limits.image_pixels, self._limits.image_bytes, look_up=look_up)
        if self._expected and pixels.nbytes <= MAX_AHEAD_PIXEL_BYTES:
            pixels = pixels.copy()
            self._begin_ahead()
        return pixels

    def expect(self, works: Sequence[Work]) -> None:
        """The pictures of these jobs are asked for soon, in this order: each is decoded while the one before it is prepared."""
        for work in works:
            self._expected += _paths(work)
        self._begin_ahead()

    def forget(self, work: Work) -> None:
        """A job's pictures are asked for no more."""
        if self._ahead is None and self._done is None and not self._expected:
            return
        for path in _paths(work):
            if path in self._expected:
                self._expected.remove(path)
            if self._done is not None and self._done[0] == path:
                self._done = None
            if self._ahead is not None and self._ahead.path == path:
                ahead, self._ahead = self._ahead, None
                with ahead.lent, contextlib.suppress(BatchError):
                    if ahead.decoder.is_ready(0.0):
                        ahead.decoder.end_image()
                    else:
                        ahead.decoder.close()  # a reply is under way, and the next request must not read it
        self._begin_ahead()

    def close(self) -> None:
        """End the decoders."""
        self._expected.clear()
        if self._ahead is not None:
            self._ahead.lent.close()
        self._decoders.close()

    def _begin_ahead(self) -> None:
        """Have the next picture decoded, if one is expected and none is under way."""
        if self._ahead is not None or self._done is not None or not self._expected:
            return
        lent = contextlib.ExitStack()
        decoder = lent.enter_context(self._decoders.lend())
        path = self._expected.popleft()
        decoder.begin_image(path, self._limits.image_pixels, self._limits.image_bytes)
        self._ahead = _Ahead(path, decoder, lent)

    def _end_ahead(self, look_up: Callable[[], object]) -> Pixels:
        assert self._ahead is not None
        ahead, self._ahead = self._ahead, None
        with ahead.lent:
            return ahead.decoder.end_image(look_up)

    def _give_way(self) -> None:
        """Keep what is decoded ahead, if that ends soon, so that a picture that nobody expected has the decoder."""
        if self._ahead is not None and self._ahead.decoder.is_ready(GIVE_WAY_S):
            path = self._ahead.path
            with contextlib.suppress(BatchError):  # whoever asks for it hears of it
                self._done = path, self._end_ahead(lambda: None).copy()


def picture_hashes(payload: Payload) -> list[str]:
    """Of the pictures that a job shows, each once."""
    if not isinstance(payload, ChatPayload):
        return []
    contents = (message.content for message in payload.messages)
    parts = (part for content in contents if isinstance(content, list) for part in content)
    return list(dict.fromkeys(part.blob for part in parts if isinstance(part, ImagePart)))


def _paths(work: Work) -> list[Path]:
    """Of the pictures that a job shows; none where the spool has lost one, of which whoever asks for it hears."""
    try:
        return [work.spool_path(sha256) for sha256 in picture_hashes(work.payload)]
    except BatchError:
        return []
