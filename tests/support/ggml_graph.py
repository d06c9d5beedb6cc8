"""One operation of the ggml that llama-cpp-python brings, on tensors of one's own."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from batch.workers.llama.library import ggml

MEMORY_BYTES = 64 << 20
Tensor = ctypes.c_void_p
F32, F16 = 0, 1
"""Of ggml_type; others are gguf.GGMLQuantizationType's."""


class InitParams(ctypes.Structure):
    """ggml_init_params."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


def call(name: str, *given: Any, returns: Any = ctypes.c_void_p) -> Any:
    """A function of ggml, of which nothing else is declared: other callers have declarations of their own."""
    function = ggml[name]
    function.restype = returns
    return function(*given)


class GgmlGraph:
    """A context that holds tensors and what is computed of them."""

    def __init__(self) -> None:
        call("ggml_cpu_init", returns=None)
        self._context = Tensor(call("ggml_init", InitParams(MEMORY_BYTES, None, False)))

    def close(self) -> None:
        """Free it."""
        call("ggml_free", self._context, returns=None)

    def tensor(self, kind: int, values: bytes, *shape: int) -> Tensor:
        """Of numpy's shape, the last dimension contiguous."""
        sizes = (ctypes.c_int64 * len(shape))(*reversed(shape))
        tensor = self.operation("ggml_new_tensor", kind, len(shape), sizes)
        ctypes.memmove(call("ggml_get_data", tensor), values, len(values))
        return tensor

    def array(self, values: Any) -> Tensor:
        """Of an array of floats or half floats."""
        return self.tensor(F16 if values.dtype == np.float16 else F32, values.tobytes(), *values.shape)

    def operation(self, name: str, *given: Any) -> Tensor:
        """A tensor of the context, made by a function of ggml."""
        return Tensor(call(name, self._context, *given))

    def compute(self, result: Tensor, threads: int) -> Any:
        """The numbers of a tensor of floats, in one row."""
        graph = self.operation("ggml_new_graph")
        call("ggml_build_forward_expand", graph, result, returns=None)
        assert call("ggml_graph_compute_with_ctx", self._context, graph, threads, returns=ctypes.c_int) == 0
        data = ctypes.cast(call("ggml_get_data", result), ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(data, shape=(call("ggml_nelements", result, returns=ctypes.c_int64),)).copy()


def quantised(kind: int, values: Any, row_bytes: int) -> bytes:
    """Rows of floats as blocks of a type."""
    rows, length = values.shape
    target = ctypes.create_string_buffer(rows * row_bytes)
    source = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    numbers = ctypes.c_int64(0), ctypes.c_int64(rows), ctypes.c_int64(length)
    size = call("ggml_quantize_chunk", kind, source, target, *numbers, None, returns=ctypes.c_size_t)
    assert size == rows * row_bytes
    return target.raw
