"""Small pictures of large ones, as WebP files that are kept as long as there is room for them."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from batch.errors import TooLarge, Unavailable
from batch.page.media.source_bytes import SourceBytes
from batch.settings import LimitSettings

if TYPE_CHECKING:
    from batch.media.decoder.pool import DecoderPool

THUMBNAIL_PIXELS = 320
"""Longest side: shown at half of it, sharp on dense screens."""
PREVIEW_PIXELS = 1600
QUALITY = 78
_KEPT_SHARE = 0.8
"""Of the room, once it was full: not every new picture has the folder walked."""


class Previews:
    """A folder of small pictures by the content they show. Use from one thread; `stop` may come from another.

    What is hostile or broken ends a decoder, never the service.
    """

    def __init__(self, folder: Path, max_bytes: int, limits: LimitSettings) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._limits = limits
        self._held_bytes: int | None = None
        """None until the folder was looked through."""
        self._decoders: DecoderPool | None = None
        """None until a picture is made: a service that shows none needs no decoder."""
        self._is_stopping = False

    def stop(self) -> None:
        """Give up the picture that is being decoded, within two seconds, and take no other."""
        self._is_stopping = True

    def close(self) -> None:
        """End the decoder, once nothing is made any more."""
        if self._decoders is not None:
            self._decoders.close()

    def preview(self, source: SourceBytes, pixels: int) -> bytes:
        """A WebP picture at most `pixels` wide and high. Raises what `open_image` raises: it is none, or too large."""
        path = self._folder / source.tag[:2] / f"{source.tag}-{pixels}.webp"
        with contextlib.suppress(OSError):
            data = path.read_bytes()
            os.utime(path)  # what is looked at stays longest
            return data
        data = self._paint(source, pixels)
        with contextlib.suppress(OSError):  # without a cache each is painted anew
            self._keep(path, data)
        return data

    def _paint(self, source: SourceBytes, pixels: int) -> bytes:
        # Here, as both cost a service without a page a tenth of a second.
        from PIL import Image

        from batch.media.decoder.pool import DecoderPool

        if source.size > self._limits.image_bytes:
            raise TooLarge("The picture is larger than limits.image_bytes.")
        data = source.read(source.size, 0)
        if self._decoders is None:
            self._decoders = DecoderPool("image")
        with self._decoders.lend() as decoder:
            rgb = decoder.image(data, self._limits.image_pixels, self._limits.image_bytes, self._look_up, least_side=pixels)
            image = Image.fromarray(rgb)
        image.thumbnail((pixels, pixels))
        out = io.BytesIO()
        image.save(out, "WEBP", quality=QUALITY, method=2)
        return out.getvalue()

    def _look_up(self) -> None:
        if self._is_stopping:
            raise Unavailable("The service stops.")

    def _keep(self, path: Path, data: bytes) -> None:
        if len(data) > self._max_bytes:
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._held_bytes is None:
            self._held_bytes = sum(size for _, size, _ in self._files())
        if self._held_bytes + len(data) > self._max_bytes:
            self._make_room(int(self._max_bytes * _KEPT_SHARE) - len(data))
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        with open(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
        self._held_bytes += len(data)

    def _make_room(self, max_bytes: int) -> None:
        """Delete what was looked at longest ago."""
        files = sorted(self._files())
        total_bytes = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total_bytes <= max_bytes:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total_bytes -= size
        self._held_bytes = total_bytes

    def _files(self) -> list[tuple[float, int, str]]:
        """(time of the last look, bytes, path) of each."""
        files = []
        for folder, _, names in os.walk(self._folder):
            for name in names:
                with contextlib.suppress(OSError):
                    status = os.stat(os.path.join(folder, name))
                    files.append((status.st_mtime, status.st_size, os.path.join(folder, name)))
        return files
