"""Pictures for the language model: the projector (mtmd), with every picture's embeddings cached by its sha256."""

from __future__ import annotations

import ctypes
import hashlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import llama_cpp.mtmd_cpp as _bindings
import numpy as np
from PIL import Image

from batch.errors import BadRequest, ModelProblem
from batch.media.decoder.pixel_memory import Pixels
from batch.workers.chat.images.image_cache import ImageCache
from batch.workers.chat.images.image_chunk import ImageChunk, ImageEncoding, TokenizedImage
from batch.workers.chat.images.image_size import ImageSizeLimits
from batch.workers.chat.images.projector import Projector
from batch.workers.llama.context import DECODED, Context
from batch.workers.llama.library import lib
from batch.workers.llama.model import Model

mtmd: Any = _bindings
_float_p = ctypes.POINTER(ctypes.c_float)

_PROBE_SIZES = tuple((side, side * ratio) for side in (64, 448, 896, 1344, 2048, 4096) for ratio in (1, 2, 4, 16))
"""Picture sizes whose token counts tell how many tokens a picture can have."""
_TOKENS_GRAIN = 64


class Vision:
    """One projector file. Pictures are tokenised, counted and encoded from any thread, the rest is for the engine's."""

    def __init__(self, path: Path, model: Model, *, threads: int, gpu: bool, cache_bytes: int) -> None:
        """Load the projector; raises ModelProblem with a sentence that names the file."""
        if not path.is_file():
            raise ModelProblem(f"The projector file {path} does not exist: run `batch models pull` or set vlm.mmproj.")
        self._load_projector = partial(Projector, path, model, threads=threads, gpu=gpu)
        self._can_wait = gpu
        """A picture takes so little time that another waits for the projector."""
        self._projectors = [self._load_projector()]
        self.handle = self._projectors[0].handle
        self.supports_images = bool(mtmd.mtmd_support_vision(self.handle))
        self.is_non_causal = bool(mtmd.mtmd_decode_use_non_causal(self.handle, None))
        """Whether a picture's tokens attend to each other in both directions, and so must be decoded in one piece."""
        self._can_slice = not self.is_non_causal and not mtmd.mtmd_decode_use_mrope(self.handle)
        self.slice_tokens = sys.maxsize
        """Most tokens of one image chunk where a picture's tokens may go into the KV one after the other."""
        self._size_limits = ImageSizeLimits.read(path)
        self._n_embd = int(lib.llama_model_n_embd_inp(model.handle))
        self._images = ImageCache(cache_bytes)
        self._lock = threading.Lock()
        self._is_projector_idle = threading.Condition(self._lock)
        self.encoded_chunks = 0
        """How many chunks have been encoded since the start."""
        self.max_chunk_tokens = self._probe_chunk_tokens() if self.supports_images else 0
        """Most tokens of one image chunk, whatever the picture's size."""

    def close(self) -> None:
        """Free the projector. Harmless when called again."""
        self._images.clear()
        for projector in self._projectors:
            projector.close()
        self.handle = None

    def tokenize_image(self, sha256: str, load: Callable[[], Pixels]) -> TokenizedImage:
        """The picture with this hash as chunks; `load` is called only when it is no longer cached.

        Raises BadRequest for a picture that the model cannot take.
        """
        if (image := self._images.use(sha256)) is not None:
            return image
        pixels = load()
        height, width, _ = pixels.shape
        size = self._size_limits.fit(width, height)
        if size != (width, height):
            pixels = np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC), dtype=np.uint8)
        image = self._cut_into_chunks(sha256, *size, pixels)
        image.pixel_bytes = pixels.size * np.dtype(np.float32).itemsize
        self._images.add(image)
        return image

    def count_tokens(self, sha256: str, read_size: Callable[[], tuple[int, int]]) -> int:
        """How many tokens a picture has; `read_size` returns (width, height). Encodes nothing.

        Raises BadRequest for a picture that the model cannot take.
        """
        if (image := self._images.get(sha256)) is not None:
            return image.n_tokens
        return self._cut_into_chunks(sha256, *self._size_limits.fit(*read_size()), None).n_tokens

    def _probe_chunk_tokens(self) -> int:
        sizes = {size for a, b in _PROBE_SIZES for size in ((a, b), (b, a))}
        images = (self._cut_into_chunks("", *self._size_limits.fit(*size), None, bounded=False) for size in sizes)
        longest = max((chunk.n_tokens for image in images for chunk in image.chunks), default=0)
        # A size in between may need a few tokens more.
        return -(-max(longest, self._size_limits.max_tokens) // _TOKENS_GRAIN) * _TOKENS_GRAIN

    def _cut_into_chunks(
        self, sha256: str, width: int, height: int, pixels: Pixels | None, *, bounded: bool = True
    ) -> TokenizedImage:
        """Cut a picture, or without pixels one of that size, into chunks."""
        data = pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)) if pixels is not None else None
        bitmap = mtmd.mtmd_bitmap_init(width, height, data)
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            mtmd.mtmd_bitmap_set_id(bitmap, sha256.encode())
            part = mtmd.mtmd_input_part(None, bitmap)
            parts = (ctypes.POINTER(mtmd.mtmd_input_part) * 1)(ctypes.pointer(part))
            if mtmd.mtmd_tokenize_from_parts(self.handle, chunks, parts, 1, False) != 0:
                raise BadRequest(f"The image ({width} x {height} pixels) cannot be read by this model.")
            image = TokenizedImage(sha256)
            for i in range(mtmd.mtmd_input_chunks_size(chunks)):
                self._add_chunk(image, mtmd.mtmd_input_chunks_get(chunks, i))
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            mtmd.mtmd_bitmap_free(bitmap)
        longest = max((chunk.n_tokens for chunk in image.chunks), default=0)
        if bounded and self.is_non_causal and longest > self.max_chunk_tokens:
            # Decoding it would need more than a micro-batch, which ends the process.
            raise BadRequest(
                f"The image ({width} x {height} pixels) has {longest} tokens; this model takes {self.max_chunk_tokens} at most."
            )
        return image

    def _add_chunk(self, image: TokenizedImage, chunk: int) -> None:
        if mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_TEXT:
            n = ctypes.c_size_t()
            tokens = mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(n))
            image.items.append([int(t) for t in tokens[: n.value]])
            return
        n_tokens = int(mtmd.mtmd_input_chunk_get_n_tokens(chunk))
        n_pos = int(mtmd.mtmd_input_chunk_get_n_pos(chunk))
        is_causal = self._can_slice and n_pos == n_tokens
        encoding = ImageEncoding(image.sha256, mtmd.mtmd_input_chunk_copy(chunk), n_tokens, is_causal)
        length = self.slice_tokens if is_causal else n_tokens
        for start in range(0, n_tokens, length):
            ident = _ident(image.sha256, len(image.items))
            part = min(length, n_tokens - start)
            image.items.append(ImageChunk(ident, part, n_pos if part == n_tokens else part, encoding, start))

    def decode_chunk(self, chunk: ImageChunk, context: Context, pos: int, seq: int) -> int:
        """Put an encoded chunk into the KV at position `pos` of a sequence; returns what Context.decode_tokens does."""
        encoding = chunk.encoding
        assert encoding is not None and encoding.embedding is not None
        if chunk.n_tokens < encoding.n_tokens:
            return context.decode_embeddings([(chunk.rows, pos, seq)])
        end = ctypes.c_int32()
        status: int = mtmd.mtmd_helper_decode_image_chunk(
            self.handle,
            context.handle,
            encoding.handle,
            encoding.embedding.ctypes.data_as(_float_p),
            pos,
            seq,
            context.n_ubatch if not self.is_non_causal else context.n_batch,
            ctypes.byref(end),
            mtmd.mtmd_helper_post_decode_callback(0),
            None,
        )
        return DECODED if status == 0 else status

    def encode_chunk(self, chunk: ImageChunk, yield_point: Callable[[], None]) -> None:
        """Compute the embeddings of the chunk's encoding, which keeps them: the slow part of reading a picture.

        `yield_point` is called in between; a more urgent job that runs inside it may encode pictures of its own.
        """
        encoding = chunk.encoding
        assert encoding is not None
        with self._lend_projector() as projector:
            embedding = projector.encode(encoding, self._n_embd, yield_point)
        # From here on only the layout is needed: the pixels are dropped.
        pixels, encoding.handle = encoding.handle, mtmd.mtmd_input_chunk_get_placeholder(encoding.handle)
        mtmd.mtmd_input_chunk_free(pixels)
        encoding.embedding = embedding  # last: another thread's job that shows the picture may read it from here on
        with self._lock:
            self.encoded_chunks += 1
        self._images.note_encoded(encoding.sha256)

    @contextmanager
    def _lend_projector(self) -> Iterator[Projector]:
        """One that is not in the middle of a picture; a second one is loaded when a more urgent job brings a picture."""
        with self._lock:
            if self._can_wait:
                self._is_projector_idle.wait_for(lambda: any(not one.is_busy for one in self._projectors))
            projector = next((one for one in self._projectors if not one.is_busy), None)
            if projector is not None:
                projector.is_busy = True
        if projector is None:
            projector = self._load_projector()
            projector.is_busy = True
            with self._lock:
                self._projectors.append(projector)
        try:
            yield projector
        finally:
            with self._lock:
                projector.is_busy = False
                self._is_projector_idle.notify()


def _ident(sha256: str, index: int) -> int:
    """Of a picture's item with this index: negative, and no two alike. It is worked out anew each time, so that nothing has to
    be remembered of pictures that went by."""
    return -1 - int.from_bytes(hashlib.blake2b(f"{sha256} {index}".encode(), digest_size=16).digest(), "big")
