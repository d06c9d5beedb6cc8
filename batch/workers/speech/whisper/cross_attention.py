"""The decoder's attention to the sound: how much of it there is, whether its weights can be read, and whose it is."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

from batch.workers.speech.whisper.library import ContextParams, library

CACHE_STEP = 256
"""Positions of which flash attention reads whole multiples."""

_CACHES_OFFSET = 80
"""Where whisper.cpp 1.8's state keeps its two caches, behind six times and eight counters."""

_LEAST_ADDRESS = 1 << 16

library.ggml_backend_buffer_clear.argtypes = [ctypes.c_void_p, ctypes.c_uint8]
library.ggml_backend_buffer_clear.restype = None
library.ggml_nbytes.argtypes = [ctypes.c_void_p]
library.ggml_nbytes.restype = ctypes.c_size_t
library.whisper_n_audio_ctx.argtypes = [ctypes.c_void_p]


class _KvCache(ctypes.Structure):
    """whisper_kv_cache of whisper.cpp 1.8; a vector is three pointers."""

    _fields_ = (
        ("head", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("n", ctypes.c_uint32),
        ("cells", ctypes.c_void_p * 3),
        ("k", ctypes.c_void_p),
        ("v", ctypes.c_void_p),
        ("buffer", ctypes.c_void_p),
        ("tensors", ctypes.c_void_p * 3),
    )


class CrossAttention:
    """How a loaded context's decoder attends to the sound: all positions or few, with weights that can be read or without.

    Flash attention is faster and gives no weights. It reads each layer's part of the cache up to a multiple of 256 positions,
    and what is behind the sound's own belongs to nobody: zeros at first, then what calls with layers of another length left.
    """

    def __init__(self, context: int, params: ContextParams | None, path: Path, width: int, layers: int) -> None:
        """`context`: a whisper_context as it was loaded from `path`; `params`: those in it, None where its attention gives no
        weights; `width` and `layers` are its decoder's."""
        self._params = params
        self._most = int(library.whisper_n_audio_ctx(context))
        self._buffer = _buffer(context, path, _padded(self._most), width * layers)
        self._written: tuple[int, bool] | None = None
        self.positions = 0
        """Of the latest call; 0: all."""
        self._set_weights(False)

    @property
    def can_be_cleared(self) -> bool:
        """Whether the cache was found in the context; where not, calls of different kinds disturb one another a little."""
        return self._buffer is not None

    @contextlib.contextmanager
    def of_call(self, positions: int, *, weights: bool) -> Iterator[None]:
        """Inside, the encoder hears so many positions (0: all), and the decoder's attention gives weights where wanted."""
        self.positions = positions
        self.prepare(weights=weights)
        if weights:
            self._set_weights(True)
        try:
            yield
        finally:
            if weights:
                self._set_weights(False)

    def prepare(self, *, weights: bool = False) -> None:
        """Before an encoder pass: leave nothing in the cache that another call would be heard by."""
        count = self.positions or self._most
        is_read_beyond = not weights and count != _padded(count)
        if is_read_beyond and self._written not in (None, (count, weights)) and self._buffer is not None:
            library.ggml_backend_buffer_clear(self._buffer, 0)
        self._written = (count, weights)

    def align_window(self, wanted: bool) -> None:
        """Whether whisper.cpp aligns the current window once its segments are there."""
        if self._params is not None:
            self._params.dtw_token_timestamps = wanted

    def _set_weights(self, wanted: bool) -> None:
        if self._params is not None:
            self._params.flash_attn = not wanted
        self.align_window(False)


def _padded(positions: int) -> int:
    return -(-positions // CACHE_STEP) * CACHE_STEP


def _buffer(context: int, path: Path, positions: int, width: int) -> int | None:
    """Address of the cache's buffer; None where it is not found to be as it should."""
    state = _state(context, os.fsencode(path))
    if state is None:
        return None
    cache = (_KvCache * 2).from_address(state + _CACHES_OFFSET)[1]
    if cache.size != positions or not cache.k or library.ggml_nbytes(cache.k) != 2 * positions * width:
        return None
    return int(cache.buffer) if cache.buffer else None


def _state(context: int, path: bytes) -> int | None:
    """Address of a context's state, which stands before its file's path; None where it is not found."""
    try:
        allocated_bytes = ctypes.CDLL(None).malloc_usable_size
    except AttributeError:  # not Linux
        return None
    allocated_bytes.argtypes, allocated_bytes.restype = [ctypes.c_void_p], ctypes.c_size_t
    words = (ctypes.c_size_t * (allocated_bytes(context) // 8)).from_address(context)
    for at in range(len(words) - 2, 0, -1):
        # a string is an address and a length
        if words[at + 1] == len(path) and words[at] > _LEAST_ADDRESS and ctypes.string_at(words[at], len(path)) == path:
            return int(words[at - 1]) if words[at - 1] > _LEAST_ADDRESS else None
    return None
