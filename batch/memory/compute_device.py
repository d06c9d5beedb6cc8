"""A device that a model can compute on, as the model library describes it."""

from __future__ import annotations

import ctypes
import sys

import msgspec

_OWN_MEMORY_GPU, _SHARED_MEMORY_GPU = 1, 2
"""ggml's numbers of a GPU with memory of its own, and of one that shares the machine's."""


class ComputeDevice(msgspec.Struct, frozen=True):
    """A processor or a GPU, with its memory in bytes."""

    name: str
    """As "CUDA0"."""
    description: str
    """What its maker calls it."""
    is_gpu: bool
    free_bytes: int
    """0: it does not say."""
    total_bytes: int

    @property
    def usable_bytes(self) -> int:
        """What is free, or a huge number where it does not say."""
        return self.free_bytes if self.total_bytes else sys.maxsize

    @property
    def summary(self) -> str:
        """What people are told of it."""
        memory = f", {self.free_bytes / 1e9:.1f} of {self.total_bytes / 1e9:.1f} GB free" if self.total_bytes else ""
        return f"{self.description} ({self.name}){memory}"


def list_devices(ggml: ctypes.CDLL) -> list[ComputeDevice]:
    """Every device that a loaded ggml has, the processor among them; with its own declarations of the functions, as two
    libraries may have a ggml each."""
    name, description = ggml["ggml_backend_dev_name"], ggml["ggml_backend_dev_description"]
    for text in (name, description):
        text.restype, text.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    memory = ggml["ggml_backend_dev_memory"]
    memory.restype, memory.argtypes = None, [ctypes.c_void_p, *[ctypes.POINTER(ctypes.c_size_t)] * 2]
    devices = []
    for handle, kind in _handles(ggml):
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        memory(handle, ctypes.byref(free), ctypes.byref(total))
        devices.append(
            ComputeDevice(
                name(handle).decode("utf-8", "replace"),
                description(handle).decode("utf-8", "replace"),
                kind in (_OWN_MEMORY_GPU, _SHARED_MEMORY_GPU),
                free.value,
                total.value,
            )
        )
    return devices


def only_gpu(ggml: ctypes.CDLL) -> int | None:
    """ggml's pointer to the one GPU with memory of its own; None where there is none, or where there are several."""
    gpus = [handle for handle, kind in _handles(ggml) if kind == _OWN_MEMORY_GPU]
    return gpus[0] if len(gpus) == 1 else None


def _handles(ggml: ctypes.CDLL) -> list[tuple[int, int]]:
    """ggml's pointer to each device, and its number of what kind that is."""
    count, get, kind = ggml["ggml_backend_dev_count"], ggml["ggml_backend_dev_get"], ggml["ggml_backend_dev_type"]
    count.restype, get.restype, get.argtypes = ctypes.c_size_t, ctypes.c_void_p, [ctypes.c_size_t]
    kind.restype, kind.argtypes = ctypes.c_int, [ctypes.c_void_p]
    return [(handle, kind(handle)) for handle in map(get, range(count()))]
