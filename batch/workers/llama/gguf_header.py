"""What a GGUF file's header says of its tensors."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import NamedTuple

from batch.errors import ModelProblem
from batch.workers.llama.library import ggml, initialise_library, last_error


class _HeaderParams(ctypes.Structure):
    """ggml's struct gguf_init_params."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


class TensorInfo(NamedTuple):
    """A tensor as a model file's header has it."""

    name: str
    type: int
    """ggml's number."""
    size: int
    """Bytes."""


def tensor_infos(path: Path) -> list[TensorInfo]:
    """Read from the file's header; raises ModelProblem where it has none."""
    initialise_library()
    for name in ("gguf_get_n_tensors", "gguf_get_tensor_name", "gguf_get_tensor_type", "gguf_get_tensor_size"):
        getattr(ggml, name).argtypes = [ctypes.c_void_p, *([] if name.endswith("tensors") else [ctypes.c_int64])]
    ggml.gguf_get_n_tensors.restype = ctypes.c_int64
    ggml.gguf_get_tensor_name.restype = ctypes.c_char_p
    ggml.gguf_get_tensor_type.restype = ctypes.c_int
    ggml.gguf_get_tensor_size.restype = ctypes.c_size_t
    ggml.gguf_init_from_file.restype = ctypes.c_void_p
    ggml.gguf_init_from_file.argtypes = [ctypes.c_char_p, _HeaderParams]
    ggml.gguf_free.argtypes, ggml.gguf_free.restype = [ctypes.c_void_p], None
    header = ggml.gguf_init_from_file(str(path).encode(), _HeaderParams(True, None))
    if not header:
        raise ModelProblem(f"The model file {path} cannot be read ({last_error() or 'it may be damaged'}): fetch it again.")
    try:
        return [
            TensorInfo(
                ggml.gguf_get_tensor_name(header, index).decode("utf-8", "replace"),
                int(ggml.gguf_get_tensor_type(header, index)),
                int(ggml.gguf_get_tensor_size(header, index)),
            )
            for index in range(ggml.gguf_get_n_tensors(header))
        ]
    finally:
        ggml.gguf_free(header)
