"""Pictures of jobs, decoded in a process of their own: one that is hostile or broken ends its job, not the worker."""

from __future__ import annotations

from batch.media.decoder.pixel_memory import Pixels
from batch.media.decoder.pool import DecoderPool
from batch.settings import LimitSettings
from batch.workers.engine import Work


class PictureReader:
    """Keeps a decoder warm. For the engine's thread."""

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
        path = work.spool_path(sha256)
        with self._decoders.lend() as decoder:
            return decoder.image(path, self._limits.image_pixels, self._limits.image_bytes, look_up=work.yield_point)

    def close(self) -> None:
        """End the decoders."""
        self._decoders.close()
