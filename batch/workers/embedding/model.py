"""A pooling model in llama.cpp: tokens in, one normalised vector a sequence out. No jobs, no JSON."""

from __future__ import annotations

import ctypes
import re
import time
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from batch.errors import BatchError, ModelProblem
from batch.workers.llama.context import ABORTED, Context
from batch.workers.llama.library import last_error, lib
from batch.workers.llama.model import Model

Tokens = npt.NDArray[np.int32]
Vectors = npt.NDArray[np.float32]

MOST_SEQUENCES = 64
LONGEST = 8192
"""Most tokens of one text, whatever the model was trained for: an encoder takes a whole text in one physical batch."""
SIZES = (96, 128, 192, 256, 512)
"""Tokens a pack, to choose from. Below 64 tokens llama.cpp's attention on a CPU takes a slower path, and a pack is
seldom quite full."""
UNIT = 0.1
"""Seconds that a pack may take on the threads that measure: somebody more urgent may come meanwhile."""
POOLINGS = {1: "mean", 2: "cls", 3: "last"}
_HANGUL = re.compile("[\uac00-\ud7a3]+")
_POINTER = ctypes.POINTER(ctypes.c_int32)


class Interrupted(Exception):
    """`stop` ended the decode: nothing of it is kept."""


class PooledModel:
    """One GGUF that pools. `embed` and `close` belong to one thread; `stop` and the tokeniser to any."""

    def __init__(self, path: Path, *, gpu_layers: int = -1, report: Callable[[float], None] | None = None) -> None:
        """Load the model; raises ModelProblem naming the file."""
        self.model = Model(path, gpu_layers=gpu_layers, report=report)
        try:
            self._open()
        except ModelProblem:
            self.model.close()
            raise
        # BERT's own tokeniser takes Korean syllables apart where it strips accents; llama.cpp's forgets to, and finds
        # other words than the model was trained on.
        wordpiece = int(lib.llama_vocab_type(self.model.vocab)) == lib.LLAMA_VOCAB_TYPE_WPM
        self._parts_hangul = wordpiece and np.array_equal(self.tokenize("é"), self.tokenize("e"))
        special = self.tokenize("")
        closing = {self.model.eos, int(lib.llama_vocab_sep(self.model.vocab))}
        self.suffix = int(len(special) > 0 and int(special[-1]) in closing)
        """Special tokens that the tokeniser puts behind a text; `prefix`: before it."""
        self.prefix = len(special) - self.suffix

    def _open(self) -> None:
        self._parts_hangul = False
        self.limit = min(self.model.n_ctx_train, LONGEST)
        """Most tokens of one text, special ones included."""
        self.width = int(lib.llama_model_n_embd_out(self.model.handle))
        self.room = room = max(self.limit, 512)
        """Most tokens of a pack."""
        self.pack_tokens = min(room, 128)
        """How many tokens a pack of short texts should have; see `measure`."""
        self._context = Context(
            self.model,
            n_ctx=room,
            n_batch=room,
            n_ubatch=room,
            sequences=MOST_SEQUENCES,
            embeddings=True,
            # Without it attention is computed over the whole pack, masked or not, in one slow piece.
            flash_attn_type=lib.LLAMA_FLASH_ATTN_TYPE_ENABLED,
        )
        pooling = int(lib.llama_pooling_type(self._context.handle))
        if pooling not in POOLINGS:
            self._context.close()
            raise ModelProblem(
                f"The model file {self.model.path} does not say how vectors are pooled: it is no embedding model."
            )
        self.pooling = POOLINGS[pooling]
        # One set of arrays for all packs: each token's pointer to its sequence id stays on its own cell of _seq.
        self._token, self._pos, self._seq = (np.zeros(room, np.int32) for _ in range(3))
        self._count, self._wanted = np.ones(room, np.int32), np.ones(room, np.int8)
        self._cells = (self._seq.ctypes.data + 4 * np.arange(room)).astype(np.uintp)
        self._batch = lib.llama_batch(
            0,
            self._token.ctypes.data_as(_POINTER),
            None,
            self._pos.ctypes.data_as(_POINTER),
            self._count.ctypes.data_as(_POINTER),
            self._cells.ctypes.data_as(ctypes.POINTER(_POINTER)),
            self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> Tokens:
        """Token ids; special tokens that are written in the text stay text unless `parse_special`."""
        if self._parts_hangul:
            text = _HANGUL.sub(lambda run: unicodedata.normalize("NFD", run[0]), text)
        data = text.encode("utf-8", "replace")  # half a surrogate pair has no UTF-8 form
        room = len(data) + 8
        while True:
            ids = np.empty(room, np.int32)
            n = int(
                lib.llama_tokenize(
                    self.model.vocab, data, len(data), ids.ctypes.data_as(_POINTER), room, add_special, parse_special
                )
            )
            if n >= 0:
                return ids[:n].copy()
            room = -n  # a tokeniser that takes characters apart may need more tokens than there are bytes

    def embed(self, pack: Sequence[Tokens], threads: int) -> Vectors:
        """One L2-normalised row a sequence, in one decode. Raises Interrupted when `stop` came in between.

        The pack must fit: at most MOST_SEQUENCES sequences, none of them empty, at most `room` tokens in all.
        """
        total = sum(map(len, pack))
        if not 0 < len(pack) <= MOST_SEQUENCES or total > self.room or not all(map(len, pack)):
            raise ValueError(f"a pack of {len(pack)} sequences with {total} tokens does not fit")
        at = 0
        for i, ids in enumerate(pack):
            end = at + len(ids)
            self._token[at:end] = ids
            self._pos[at:end] = np.arange(len(ids), dtype=np.int32)
            self._seq[at:end] = i
            at = end
        self._batch.n_tokens = total
        handle = self._context.handle
        self._context.set_threads(threads)
        if self._context.memory:  # causal embedders have one, encoders none
            lib.llama_memory_clear(self._context.memory, False)
        code = int(lib.llama_decode(handle, self._batch))
        if code == ABORTED:
            self._context.clear_abort()
            raise Interrupted
        if code != 0:
            raise BatchError(f"llama.cpp could not compute these vectors (code {code}): {last_error()}")
        rows = np.empty((len(pack), self.width), np.float32)
        for i in range(len(pack)):
            rows[i] = np.ctypeslib.as_array(lib.llama_get_embeddings_seq(handle, i), (self.width,))
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        if not np.isfinite(norms).all():
            raise BatchError("The model gave a vector that is not finite: its file may be damaged.")
        rows /= np.maximum(norms, np.float32(1e-12))
        return rows

    def measure(self, threads: int, seconds: float = 0.4) -> dict[int, int]:
        """Set `pack_tokens` to the largest pack of short texts that still makes nearly the most tokens a second, as more
        threads gain more from larger ones than those that measure; but to none that takes longer than `UNIT`.

        Returns the rates seen, tokens a second by tokens a pack. A pack that would not fit into `seconds` is not tried.
        """
        text = np.arange(16, dtype=np.int32) * 97 % self.model.n_vocab
        self.embed([text], threads)
        rates: dict[int, float] = {}
        deadline = time.perf_counter() + seconds
        # Three rounds over all sizes, the best of each: other programs' bursts then spoil none of them alone.
        for size in SIZES * 3:
            if rates and size / rates.get(size, min(rates.values())) > deadline - time.perf_counter():
                continue
            start = time.perf_counter()
            self.embed([text] * (size // len(text)), threads)
            rates[size] = max(rates.get(size, 0.0), size / (time.perf_counter() - start))
        best = max(rates.values())
        good = [size for size, rate in rates.items() if rate >= 0.95 * best]
        self.pack_tokens = max([size for size in good if size / rates[size] <= UNIT], default=min(good))
        return {size: round(rate) for size, rate in rates.items()}

    def stop(self) -> None:
        """From any thread: end the decode in flight, or the next, with Interrupted."""
        self._context.abort()

    def close(self) -> None:
        self._context.close()
        self.model.close()
