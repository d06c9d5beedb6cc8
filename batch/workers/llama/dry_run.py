"""What a model and its context will take, told by llama.cpp before anything is allocated."""

from __future__ import annotations

import re
from pathlib import Path

from batch.errors import ModelProblem
from batch.memory.sizes import ContextSizes, KvType, WeightSizes
from batch.workers.llama.context import KV_TYPES
from batch.workers.llama.gguf_header import tensor_infos
from batch.workers.llama.library import clear_errors, collected_lines, initialise_library, last_error, lib
from batch.workers.llama.model import is_recurrent
from batch.workers.llama.row_tables import PER_LAYER_TABLE

_KV_SIZE = re.compile(r"size = +([\d.]+) MiB \( *\d+ cells")
_COMPUTE_SIZE = re.compile(r"(\S+) compute buffer size = +([\d.]+) MiB")
_REORDERED = re.compile(r"(?:CPU_REPACK|AMX|CPU_RISCV64_SPACEMIT) model buffer size")
"""What llama.cpp says where weights are loaded into the order of a processor's kernels."""
_MIB = 1 << 20
_FIRST_QUANTISED_TYPE = 2
_SINGLE_TYPES = frozenset(range(24, 29)) | {30}
"""ggml's numbers of whole numbers, double and bfloat16, which no kernel wants in another order."""


def weight_sizes(path: Path) -> WeightSizes:
    """Of a model file's tensors, all that some processor's kernels want in another order as repacked; raises ModelProblem where
    it cannot be read."""
    total = repacked = row_tables = 0
    for name, kind, size in tensor_infos(path):
        total += size
        if name == PER_LAYER_TABLE:
            row_tables += size
        elif name.startswith(("blk.", "output.")) and kind >= _FIRST_QUANTISED_TYPE and kind not in _SINGLE_TYPES:
            repacked += size
    return WeightSizes(total, repacked, row_tables)


class DryRun:
    """A model of which only the header and the vocabulary are read."""

    def __init__(self, path: Path, *, gpu_layers: int) -> None:
        """Raises ModelProblem with a sentence that names the file."""
        initialise_library()
        params = lib.llama_model_default_params()
        params.n_gpu_layers = gpu_layers if lib.llama_supports_gpu_offload() else 0
        params.no_alloc = True
        params.load_mode = lib.LLAMA_LOAD_MODE_NONE
        clear_errors()
        with collected_lines() as pieces:
            self._model = lib.llama_model_load_from_file(str(path).encode(), params)
        self.reorders_weights = _REORDERED.search("".join(pieces)) is not None
        """Whether this processor's kernels want some of the weights in another order than the file's."""
        if not self._model:
            raise ModelProblem(f"The model file {path} cannot be loaded ({last_error() or 'it may be damaged'}).")

    def close(self) -> None:
        """Free it."""
        lib.llama_model_free(self._model)

    @property
    def layers(self) -> int:
        """How many layers the model has."""
        return int(lib.llama_model_n_layer(self._model))

    @property
    def n_ctx_train(self) -> int:
        """How many tokens of context the model was trained with."""
        return int(lib.llama_model_n_ctx_train(self._model))

    @property
    def is_recurrent(self) -> bool:
        """Whether some layers keep a state that cannot be rolled back by positions at all."""
        return is_recurrent(self._model)

    def context_sizes(
        self, *, n_ctx: int, n_batch: int, n_ubatch: int, sequences: int, kv_type: KvType, own_kv: bool = False
    ) -> ContextSizes | None:
        """What a context made with the same numbers takes; None where it cannot be made, as q8_0 with heads of odd sizes."""
        values = lib.llama_context_default_params()
        values.n_ctx = n_ctx * sequences if own_kv else n_ctx
        values.n_batch, values.n_ubatch, values.n_seq_max = n_batch, n_ubatch, sequences
        values.kv_unified, values.swa_full, values.no_perf = not own_kv, False, True
        values.type_k = values.type_v = KV_TYPES[kv_type]
        with collected_lines() as pieces:
            context = lib.llama_init_from_model(self._model, values)
        if not context:
            return None
        lib.llama_free(context)
        return read_sizes("".join(pieces))


def read_sizes(log: str) -> ContextSizes:
    """The sizes in what llama.cpp says while it makes a context."""
    kv = sum(float(match[1]) for match in _KV_SIZE.finditer(log))
    buffers = [(match[1], float(match[2])) for match in _COMPUTE_SIZE.finditer(log)]
    of_gpu = sum(size for name, size in buffers if not _is_host(name))
    return ContextSizes(int(kv * _MIB), int((sum(size for _, size in buffers) - of_gpu) * _MIB), int(of_gpu * _MIB))


def _is_host(name: str) -> bool:
    return name.startswith("CPU") or name.endswith("_Host")
