"""Pictures for the language model: the projector (mtmd), with every picture's embeddings cached by its sha256."""

from __future__ import annotations

import ctypes
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llama_cpp.mtmd_cpp as _bindings
import numpy as np
from PIL import Image

from batch.errors import BadRequest, BatchError, ModelProblem
from batch.media.decoder.pixel_memory import Pixels
from batch.workers.chat.images.image_size import ImageSizeLimits
from batch.workers.llama.context import DECODED, Context
from batch.workers.llama.library import last_error, lib, log_callback
from batch.workers.llama.model import Model

mtmd: Any = _bindings
_float_p = ctypes.POINTER(ctypes.c_float)

Embedding = np.ndarray[Any, np.dtype[np.float32]]

_PROBE_SIZES = tuple((side, side * ratio) for side in (64, 448, 896, 1344, 2048, 4096) for ratio in (1, 2, 4, 16))
"""Picture sizes whose token counts tell how many tokens a picture can have."""
_TOKENS_GRAIN = 64


@dataclass(slots=True, eq=False)
class ImageChunk:
    """A run of image tokens that only goes into the KV as a whole."""

    ident: int
    """Negative, the same for the same pixels: what stands in a token sequence for each of its tokens."""
    n_tokens: int
    n_pos: int
    handle: int | None
    embedding: Embedding | None = None
    """(n_tokens * width of the model's input,), once encoded."""

    def __del__(self) -> None:
        if self.handle and mtmd is not None:
            mtmd.mtmd_input_chunk_free(self.handle)

    def layout(self) -> ImageChunk:
        """The same tokens without their content: enough to remember what a KV sequence holds."""
        return ImageChunk(self.ident, self.n_tokens, self.n_pos, None)


@dataclass(slots=True, eq=False)
class TokenizedImage:
    """A picture as the model reads it: lists of text tokens, and image chunks, in order."""

    sha256: str
    items: list[list[int] | ImageChunk] = field(default_factory=list)

    @property
    def chunks(self) -> list[ImageChunk]:
        """Its image chunks."""
        return [item for item in self.items if isinstance(item, ImageChunk)]

    @property
    def n_tokens(self) -> int:
        """Tokens in all."""
        return sum(i.n_tokens if isinstance(i, ImageChunk) else len(i) for i in self.items)

    @property
    def is_encoded(self) -> bool:
        """Whether all chunks have their embeddings."""
        return all(chunk.embedding is not None for chunk in self.chunks)

    @property
    def embedding_bytes(self) -> int:
        """Bytes that its embeddings take."""
        return sum(chunk.embedding.nbytes for chunk in self.chunks if chunk.embedding is not None)


class Vision:
    """One projector file. `count_tokens` may be called from any thread, the rest from the engine's."""

    def __init__(self, path: Path, model: Model, *, threads: int, gpu: bool, cache_bytes: int) -> None:
        """Load the projector; raises ModelProblem with a sentence that names the file."""
        # Without this, mtmd prints whole prompts to stderr.
        mtmd.mtmd_helper_log_set(log_callback, None)
        if not path.is_file():
            raise ModelProblem(f"The projector file {path} does not exist: run `batch models pull` or set vlm.mmproj.")
        params = mtmd.mtmd_context_params_default()
        params.use_gpu = gpu
        params.print_timings = False
        params.n_threads = threads
        params.warmup = False
        self.handle = mtmd.mtmd_init_from_file(str(path).encode(), model.handle, params)
        if not self.handle:
            reason = last_error() or "it may be damaged or belong to another model"
            raise ModelProblem(f"The projector file {path} cannot be loaded ({reason}).")
        self.supports_images = bool(mtmd.mtmd_support_vision(self.handle))
        self.is_non_causal = bool(mtmd.mtmd_decode_use_non_causal(self.handle, None))
        """Whether a picture's tokens attend to each other in both directions, and so must be decoded in one piece."""
        self._size_limits = ImageSizeLimits.read(path)
        self._n_embd = int(lib.llama_model_n_embd_inp(model.handle))
        self._cache_bytes = cache_bytes
        self._images: OrderedDict[str, TokenizedImage] = OrderedDict()
        self._idents: dict[tuple[str, int], int] = {}
        self._lock = threading.Lock()
        self.encoded_chunks = 0
        """How many chunks have been encoded since the start."""
        self.max_chunk_tokens = self._probe_chunk_tokens() if self.supports_images else 0
        """Most tokens of one image chunk, whatever the picture's size."""

    def close(self) -> None:
        """Free the projector. Harmless when called again."""
        self._images.clear()
        if self.handle:
            mtmd.mtmd_free(self.handle)
            self.handle = None

    def tokenize_image(self, sha256: str, load: Callable[[], Pixels]) -> TokenizedImage:
        """The picture with this hash as chunks; `load` is called only when it is no longer cached.

        Raises BadRequest for a picture that the model cannot take.
        """
        with self._lock:
            image = self._images.get(sha256)
            if image is not None and image.is_encoded:
                self._images.move_to_end(sha256)
                return image
        pixels = load()
        height, width, _ = pixels.shape
        size = self._size_limits.fit(width, height)
        if size != (width, height):
            pixels = np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC), dtype=np.uint8)
        image = self._cut_into_chunks(sha256, *size, pixels)
        with self._lock:
            self._images[sha256] = image
        return image

    def count_tokens(self, sha256: str, read_size: Callable[[], tuple[int, int]]) -> int:
        """How many tokens a picture has; `read_size` returns (width, height). Encodes nothing.

        Raises BadRequest for a picture that the model cannot take.
        """
        with self._lock:
            image = self._images.get(sha256)
        if image is not None:
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
        key = (image.sha256, len(image.items))
        with self._lock:
            ident = self._idents.setdefault(key, -1 - len(self._idents))
        n_tokens = int(mtmd.mtmd_input_chunk_get_n_tokens(chunk))
        n_pos = int(mtmd.mtmd_input_chunk_get_n_pos(chunk))
        image.items.append(ImageChunk(ident, n_tokens, n_pos, mtmd.mtmd_input_chunk_copy(chunk)))

    def decode_chunk(self, chunk: ImageChunk, context: Context, pos: int, seq: int) -> int:
        """Put an encoded chunk into the KV at position `pos` of a sequence; returns what Context.decode_tokens does."""
        assert chunk.embedding is not None
        end = ctypes.c_int32()
        status: int = mtmd.mtmd_helper_decode_image_chunk(
            self.handle,
            context.handle,
            chunk.handle,
            chunk.embedding.ctypes.data_as(_float_p),
            pos,
            seq,
            context.n_ubatch if not self.is_non_causal else context.n_batch,
            ctypes.byref(end),
            mtmd.mtmd_helper_post_decode_callback(0),
            None,
        )
        return DECODED if status == 0 else status

    def encode_chunk(self, chunk: ImageChunk) -> None:
        """Compute the chunk's embedding, which it keeps: the slow part of reading a picture."""
        if mtmd.mtmd_encode_chunk(self.handle, chunk.handle) != 0:
            raise BatchError(f"The image could not be encoded ({last_error() or 'the projector failed'}).")
        self.encoded_chunks += 1
        values = np.ctypeslib.as_array(mtmd.mtmd_get_output_embd(self.handle), shape=(chunk.n_tokens * self._n_embd,))
        chunk.embedding = values.copy()
        # From here on only the layout is needed: the pixels are dropped.
        pixels, chunk.handle = chunk.handle, mtmd.mtmd_input_chunk_get_placeholder(chunk.handle)
        mtmd.mtmd_input_chunk_free(pixels)
        self._evict_images()

    def _evict_images(self) -> None:
        with self._lock:
            total = sum(image.embedding_bytes for image in self._images.values())
            while total > self._cache_bytes and len(self._images) > 1:
                total -= self._images.popitem(last=False)[1].embedding_bytes
