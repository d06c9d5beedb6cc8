"""Pictures of jobs, decoded in a process of their own: one that is hostile or broken ends its job, not the worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from batch.media.decoder.pixel_memory import Pixels
from batch.media.decoder.pool import DecoderPool
from batch.settings import LimitSettings
from batch.workers.engine import Work


class PictureReader:
    """Keeps a decoder warm. For one thread: pixels stand in memory that the next picture overwrites."""

    def __init__(self, limits: LimitSettings) -> None:
        """`limits`: how many pixels and bytes a picture may have."""
        self._limits = limits
        self._decoders = DecoderPool("image")

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
        with self._decoders.lend() as decoder:
            return decoder.image(path, self._limits.image_pixels, self._limits.image_bytes, look_up=look_up)

    def close(self) -> None:
        """End the decoders."""
        self._decoders.close()
