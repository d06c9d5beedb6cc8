"""Tables of which a token reads one row, kept on the GPU where there is room.

llama.cpp leaves them to the processor, which unpacks every token's rows and copies them over: of Gemma 4 E4B 53 KB a token.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from batch.memory.compute_device import only_gpu
from batch.workers.llama.gguf_header import tensor_infos
from batch.workers.llama.library import ggml, initialise_library

PER_LAYER_TABLE = "per_layer_token_embd.weight"
ROW_TABLES = (PER_LAYER_TABLE, "token_embd.weight")
"""The names of such tensors."""
_I32_TYPE = 26
_SCRATCH_BYTES = 1 << 16


class _BufferOverride(ctypes.Structure):
    """llama.cpp's struct llama_model_tensor_buft_override."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


class _InitParams(ctypes.Structure):
    """ggml's struct ggml_init_params."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


def table_types(path: Path) -> frozenset[int]:
    """ggml's numbers of the types that a model file's tables are kept in. Raises ModelProblem where it cannot be read."""
    return frozenset(info.type for info in tensor_infos(path) if info.name in ROW_TABLES)


def gpu_overrides(types: frozenset[int]) -> Any | None:
    """What llama_model_params.tensor_buft_overrides is set to so that the tables lie on the GPU; keep it until the model is
    loaded. None where there is not exactly one GPU with memory of its own, or where it cannot read rows of these types."""
    initialise_library()
    device = only_gpu(ggml)
    if device is None or not types or not all(_reads_rows(device, kind) for kind in types):
        return None
    buffer_type = _function("ggml_backend_dev_buffer_type", ctypes.c_void_p, ctypes.c_void_p)(device)
    patterns = [f"^{name.replace('.', '[.]')}$".encode() for name in ROW_TABLES]
    overrides = [_BufferOverride(pattern, buffer_type) for pattern in patterns]
    return (_BufferOverride * (len(overrides) + 1))(*overrides)  # the last one is empty: it ends the list


def _reads_rows(device: int, kind: int) -> bool:
    pointer = ctypes.c_void_p
    context = _function("ggml_init", pointer, _InitParams)(_InitParams(_SCRATCH_BYTES, None, True))
    try:
        table = _function("ggml_new_tensor_2d", pointer, pointer, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        rows = _function("ggml_new_tensor_1d", pointer, pointer, ctypes.c_int, ctypes.c_int64)
        get_rows = _function("ggml_get_rows", pointer, pointer, pointer, pointer)
        step = get_rows(context, table(context, kind, 256, 256), rows(context, _I32_TYPE, 8))
        return bool(_function("ggml_backend_dev_supports_op", ctypes.c_bool, pointer, pointer)(device, step))
    finally:
        _function("ggml_free", None, pointer)(context)


def _function(name: str, result: Any, *arguments: Any) -> Any:
    """One of ggml's functions, declared for these calls alone."""
    function = ggml[name]
    function.restype, function.argtypes = result, list(arguments)
    return function
