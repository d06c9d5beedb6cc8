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

from batch.errors import BadRequest, BatchError, ModelProblem
from batch.workers.llama.context import DECODED, Context
from batch.workers.llama.library import last_error, lib, log_callback
from batch.workers.llama.model import Model

mtmd: Any = _bindings
_float_p = ctypes.POINTER(ctypes.c_float)

Embedding = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(slots=True, eq=False)
class Chunk:
    """A stretch of image cells that only goes into the KV as a whole."""

    ident: int
    """Negative, the same for the same pixels: what stands in a prompt's list of ids for each of its cells."""
    n_tokens: int
    n_pos: int
    handle: int | None
    embedding: Embedding | None = None

    def __del__(self) -> None:
        if self.handle and mtmd is not None:
            mtmd.mtmd_input_chunk_free(self.handle)

    def layout(self) -> Chunk:
        """The same cells without what fills them: for remembering what a KV sequence holds."""
        return Chunk(self.ident, self.n_tokens, self.n_pos, None)


@dataclass(slots=True, eq=False)
class Picture:
    """A picture as the model reads it: token lists and chunks in order."""

    sha256: str
    items: list[list[int] | Chunk] = field(default_factory=list)

    @property
    def n_tokens(self) -> int:
        return sum(i.n_tokens if isinstance(i, Chunk) else len(i) for i in self.items)

    @property
    def encoded(self) -> bool:
        return all(i.embedding is not None for i in self.items if isinstance(i, Chunk))

    @property
    def size(self) -> int:
        """Bytes of embeddings it holds."""
        return sum(i.embedding.nbytes for i in self.items if isinstance(i, Chunk) and i.embedding is not None)


class Vision:
    """One projector file. `count` may be called from any thread, the rest from the engine's."""

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
        self.sees = bool(mtmd.mtmd_support_vision(self.handle))
        self.non_causal = bool(mtmd.mtmd_decode_use_non_causal(self.handle, None))
        self._n_embd = int(lib.llama_model_n_embd_inp(model.handle))
        self._budget = cache_bytes
        self._known: OrderedDict[str, Picture] = OrderedDict()
        self._idents: dict[tuple[str, int], int] = {}
        self._lock = threading.Lock()
        self.encodes = 0
        """How many chunks have been encoded since the start."""

    def close(self) -> None:
        self._known.clear()
        if self.handle:
            mtmd.mtmd_free(self.handle)
            self.handle = None

    def picture(self, sha256: str, pixels: Callable[[], np.ndarray[Any, np.dtype[np.uint8]]]) -> Picture:
        """The picture with this hash; `pixels` (height, width, 3) is called only when it is not known any more."""
        with self._lock:
            known = self._known.get(sha256)
            if known is not None and known.encoded:
                self._known.move_to_end(sha256)
                return known
        array = np.ascontiguousarray(pixels(), dtype=np.uint8)
        picture = self._read(sha256, array.shape[1], array.shape[0], array)
        with self._lock:
            self._known[sha256] = picture
        return picture

    def count(self, sha256: str, size: Callable[[], tuple[int, int]]) -> int:
        """How many tokens a picture costs; `size` is (width, height). Encodes nothing."""
        with self._lock:
            known = self._known.get(sha256)
        if known is not None:
            return known.n_tokens
        width, height = size()
        return self._read(sha256, width, height, None).n_tokens

    def _read(self, sha256: str, width: int, height: int, pixels: np.ndarray[Any, Any] | None) -> Picture:
        """Cut a picture (or, without pixels, one of that size) into chunks."""
        data = pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)) if pixels is not None else None
        bitmap = mtmd.mtmd_bitmap_init(width, height, data)
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            mtmd.mtmd_bitmap_set_id(bitmap, sha256.encode())
            part = mtmd.mtmd_input_part(None, bitmap)
            parts = (ctypes.POINTER(mtmd.mtmd_input_part) * 1)(ctypes.pointer(part))
            if mtmd.mtmd_tokenize_from_parts(self.handle, chunks, parts, 1, False) != 0:
                raise BadRequest(f"The image ({width} x {height} pixels) cannot be read by this model.")
            picture = Picture(sha256)
            for i in range(mtmd.mtmd_input_chunks_size(chunks)):
                self._take(picture, mtmd.mtmd_input_chunks_get(chunks, i))
            return picture
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            mtmd.mtmd_bitmap_free(bitmap)

    def _take(self, picture: Picture, chunk: int) -> None:
        if mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_TEXT:
            n = ctypes.c_size_t()
            tokens = mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(n))
            picture.items.append([int(t) for t in tokens[: n.value]])
            return
        key = (picture.sha256, len(picture.items))
        with self._lock:
            ident = self._idents.setdefault(key, -1 - len(self._idents))
        n_tokens = int(mtmd.mtmd_input_chunk_get_n_tokens(chunk))
        n_pos = int(mtmd.mtmd_input_chunk_get_n_pos(chunk))
        picture.items.append(Chunk(ident, n_tokens, n_pos, mtmd.mtmd_input_chunk_copy(chunk)))

    def decode(self, chunk: Chunk, context: Context, pos: int, seq: int) -> int:
        """Put an encoded chunk into the KV; answers as `Context.decode`."""
        assert chunk.embedding is not None
        end = ctypes.c_int32()
        status: int = mtmd.mtmd_helper_decode_image_chunk(
            self.handle,
            context.handle,
            chunk.handle,
            chunk.embedding.ctypes.data_as(_float_p),
            pos,
            seq,
            context.n_ubatch if not self.non_causal else context.n_batch,
            ctypes.byref(end),
            mtmd.mtmd_helper_post_decode_callback(0),
            None,
        )
        return DECODED if status == 0 else status

    def encode(self, chunk: Chunk) -> None:
        """Compute the chunk's embedding, which it keeps: the slow part of looking at a picture."""
        if mtmd.mtmd_encode_chunk(self.handle, chunk.handle) != 0:
            raise BatchError(f"The image could not be encoded ({last_error() or 'the projector failed'}).")
        self.encodes += 1
        values = np.ctypeslib.as_array(mtmd.mtmd_get_output_embd(self.handle), shape=(chunk.n_tokens * self._n_embd,))
        chunk.embedding = values.copy()
        # From here on only the layout is needed: the pixels are dropped.
        pixels, chunk.handle = chunk.handle, mtmd.mtmd_input_chunk_get_placeholder(chunk.handle)
        mtmd.mtmd_input_chunk_free(pixels)
        self._shrink()

    def _shrink(self) -> None:
        with self._lock:
            total = sum(p.size for p in self._known.values())
            while total > self._budget and len(self._known) > 1:
                total -= self._known.popitem(last=False)[1].size
