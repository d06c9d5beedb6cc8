"""The pictures that a projector has read, by their sha256, within a bound of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict

from batch.workers.chat.images.image_chunk import TokenizedImage


class ImageCache:
    """Pictures that are encoded and pictures that are yet to be, each kind within the bound. For any thread; what a picture
    costs does not grow with their number."""

    def __init__(self, capacity_bytes: int) -> None:
        """`capacity_bytes`: of the embeddings, and of the pixels. The last of each kind stays at any size."""
        self._capacity_bytes = capacity_bytes
        self._encoded: OrderedDict[str, TokenizedImage] = OrderedDict()
        """The one that was not used for longest first."""
        self._embedding_bytes = 0
        self._unread: OrderedDict[str, TokenizedImage] = OrderedDict()
        """The one that was prepared first before the others."""
        self._pixel_bytes = 0
        self._lock = threading.Lock()

    @property
    def images(self) -> list[TokenizedImage]:
        """All of them, those to be encoded last."""
        with self._lock:
            return [*self._encoded.values(), *self._unread.values()]

    def get(self, sha256: str) -> TokenizedImage | None:
        """The picture, encoded or not."""
        with self._lock:
            return self._encoded.get(sha256) or self._unread.get(sha256)

    def use(self, sha256: str) -> TokenizedImage | None:
        """The picture if it is encoded; it is the last then to be let go of."""
        with self._lock:
            if sha256 in self._encoded:
                self._encoded.move_to_end(sha256)
            return self._encoded.get(sha256)

    def add(self, image: TokenizedImage) -> None:
        """A picture to be encoded. Those that were prepared long ago and never encoded, as their jobs ended before that, make
        room for it; a job that still waits has its own hold on them."""
        with self._lock:
            self._drop(image.sha256)
            self._unread[image.sha256] = image
            self._pixel_bytes += image.pixel_bytes
            while self._pixel_bytes > self._capacity_bytes and len(self._unread) > 1:
                self._drop(next(iter(self._unread)))
        self.note_encoded(image.sha256)  # there may be nothing to encode in it

    def note_encoded(self, sha256: str) -> None:
        """A part of the picture has been encoded. Once all of it is, those that were not used for longest make room for it."""
        with self._lock:
            image = self._unread.get(sha256)
            if image is None or not image.is_encoded:
                return
            self._drop(sha256)
            self._encoded[sha256] = image
            self._embedding_bytes += image.embedding_bytes
            while self._embedding_bytes > self._capacity_bytes and len(self._encoded) > 1:
                self._drop(next(iter(self._encoded)))

    def clear(self) -> None:
        """Let go of all."""
        with self._lock:
            for sha256 in [*self._encoded, *self._unread]:
                self._drop(sha256)

    def _drop(self, sha256: str) -> None:
        """With the lock held; it may be none of them."""
        if (image := self._encoded.pop(sha256, None)) is not None:
            self._embedding_bytes -= image.embedding_bytes
        if (image := self._unread.pop(sha256, None)) is not None:
            self._pixel_bytes -= image.pixel_bytes
