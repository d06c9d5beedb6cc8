"""The projector that encodes pictures, a few graph nodes at a time, so that more urgent jobs can come between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp.mtmd_cpp as _bindings
import numpy as np

from batch.errors import BatchError, ModelProblem
from batch.workers.chat.images.image_chunk import Embedding, ImageEncoding
from batch.workers.llama.library import last_error, lib, log_callback
from batch.workers.llama.model import Model

mtmd: Any = _bindings

YIELD_INTERVAL_NODES = 8
"""Graph nodes that are computed together between two yield points. A layer has about 30. Always the same, so that a
picture's embeddings are too."""
SMALL_FILE_BYTES = 32 << 20
SMALL_FILE_NODES_TIMES_TOKENS = 4480
"""A projector whose file is smaller computes more nodes together, the fewer tokens a picture has: 64 of 70 tokens. Eight would
take half a millisecond, a tenth of which is the stop."""


class Projector:
    """One mtmd context. It encodes one picture at a time."""

    def __init__(self, path: Path, model: Model, *, threads: int, gpu: bool) -> None:
        """Load the file; raises ModelProblem with a sentence that names it."""
        # Without this, mtmd prints whole prompts to stderr.
        mtmd.mtmd_helper_log_set(log_callback, None)
        params = mtmd.mtmd_context_params_default()
        params.use_gpu = gpu
        params.print_timings = False
        params.n_threads = threads
        params.warmup = False
        self._yield_point: Callable[[], None] | None = None
        self._error: BaseException | None = None
        self._nodes = 0
        self._is_small = path.is_file() and path.stat().st_size < SMALL_FILE_BYTES
        self._interval_nodes = YIELD_INTERVAL_NODES
        # The library keeps the address: a collected callback is a segfault in the next encoding.
        self._callback = lib.ggml_backend_sched_eval_callback(self._on_node)
        if not gpu:  # there a picture takes milliseconds, and stopping between nodes would cost more
            params.cb_eval = self._callback
        self.handle = mtmd.mtmd_init_from_file(str(path).encode(), model.handle, params)
        if not self.handle:
            reason = last_error() or "it may be damaged or belong to another model"
            raise ModelProblem(f"The projector file {path} cannot be loaded ({reason}).")
        self.is_busy = False
        """Whether it is in the middle of a picture: then another one must not go in. Kept by who lends it."""

    def close(self) -> None:
        """Free it. Harmless when called again."""
        if self.handle:
            mtmd.mtmd_free(self.handle)
            self.handle = None

    def encode(self, encoding: ImageEncoding, width: int, yield_point: Callable[[], None]) -> Embedding:
        """The embeddings, (n_tokens * width,). `yield_point` is called in between; what it raises ends the encoding."""
        self._yield_point, self._error, self._nodes = yield_point, None, 0
        more = SMALL_FILE_NODES_TIMES_TOKENS // encoding.n_tokens if self._is_small else 0
        self._interval_nodes = max(YIELD_INTERVAL_NODES, more)
        try:
            status = mtmd.mtmd_encode_chunk(self.handle, encoding.handle)
        finally:
            error, self._yield_point, self._error = self._error, None, None
        if error is not None:
            raise error
        if status != 0:
            raise BatchError(f"The image could not be encoded ({last_error() or 'the projector failed'}).")
        embedding = mtmd.mtmd_get_output_embd(self.handle)
        values: Embedding = np.ctypeslib.as_array(embedding, shape=(encoding.n_tokens * width,)).copy()
        return values

    def _on_node(self, _tensor: int | None, is_asked: bool, _data: int | None) -> bool:
        """Asked before a graph node: whether to stop behind it; told after such a node: whether to go on."""
        if is_asked:
            self._nodes += 1
            return self._nodes % self._interval_nodes == 0
        if self._error is None and self._yield_point is not None:
            try:
                self._yield_point()
            except BaseException as error:  # it must not pass through native code, and is raised behind it
                self._error = error
        return self._error is None
