"""One operation of the ggml that llama-cpp-python brings, on tensors of one's own."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

FOLDER = Path(llama_cpp.__file__).parent / "lib"
MEMORY_BYTES = 64 << 20
Tensor = ctypes.c_void_p
F32, F16 = 0, 1
"""Of ggml_type; others are gguf.GGMLQuantizationType's."""


class InitParams(ctypes.Structure):
    """ggml_init_params."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class GgmlGraph:
    """A context that holds tensors and what is computed of them."""

    def __init__(self) -> None:
        suffix = "dylib" if (FOLDER / "libggml-base.dylib").exists() else "so"
        self.base = ctypes.CDLL(str(FOLDER / f"libggml-base.{suffix}"))
        self._cpu = ctypes.CDLL(str(FOLDER / f"libggml-cpu.{suffix}"))
        for name in ("ggml_init", "ggml_new_tensor", "ggml_mul_mat", "ggml_flash_attn_ext", "ggml_new_graph", "ggml_get_data"):
            getattr(self.base, name).restype = ctypes.c_void_p
        self.base.ggml_nelements.restype = ctypes.c_int64
        self.base.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.base.ggml_init.argtypes = [InitParams]
        self._cpu.ggml_cpu_init()
        self.context = Tensor(self.base.ggml_init(InitParams(MEMORY_BYTES, None, False)))

    def close(self) -> None:
        """Free it."""
        self.base.ggml_free(self.context)

    def tensor(self, kind: int, values: bytes, *shape: int) -> Tensor:
        """Of numpy's shape, the last dimension contiguous."""
        sizes = (ctypes.c_int64 * len(shape))(*reversed(shape))
        tensor = Tensor(self.base.ggml_new_tensor(self.context, kind, len(shape), sizes))
        ctypes.memmove(self.base.ggml_get_data(tensor), values, len(values))
        return tensor

    def array(self, values: Any) -> Tensor:
        """Of an array of floats or half floats."""
        return self.tensor(F16 if values.dtype == np.float16 else F32, values.tobytes(), *values.shape)

    def quantised(self, kind: int, values: Any, row_bytes: int) -> bytes:
        """Rows of floats as blocks of a type."""
        rows, length = values.shape
        target = ctypes.create_string_buffer(rows * row_bytes)
        source = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        numbers = ctypes.c_int64(0), ctypes.c_int64(rows), ctypes.c_int64(length)
        assert self.base.ggml_quantize_chunk(kind, source, target, *numbers, None) == rows * row_bytes
        return target.raw

    def compute(self, result: int, threads: int) -> Any:
        """The numbers of a tensor of floats, in one row."""
        graph = Tensor(self.base.ggml_new_graph(self.context))
        self.base.ggml_build_forward_expand(graph, Tensor(result))
        assert self._cpu.ggml_graph_compute_with_ctx(self.context, graph, threads) == 0
        data = ctypes.cast(self.base.ggml_get_data(Tensor(result)), ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(data, shape=(self.base.ggml_nelements(Tensor(result)),)).copy()
