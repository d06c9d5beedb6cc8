"""The devices that llama.cpp sees here, with their memory: `python -m batch.workers.llama.devices` prints them."""

from __future__ import annotations

import ctypes
import sys

import msgspec

from batch.memory.compute_device import ComputeDevice
from batch.workers.llama.library import ggml, initialise_library

_GPU_TYPES = (1, 2)
"""ggml's numbers of a GPU with memory of its own, and of one that shares the machine's."""


def compute_devices() -> list[ComputeDevice]:
    """Every device, the processor among them."""
    initialise_library()
    count, get = ggml.ggml_backend_dev_count, ggml.ggml_backend_dev_get
    count.restype, get.restype, get.argtypes = ctypes.c_size_t, ctypes.c_void_p, [ctypes.c_size_t]
    name, description = ggml.ggml_backend_dev_name, ggml.ggml_backend_dev_description
    for text in (name, description):
        text.restype, text.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    kind, memory = ggml.ggml_backend_dev_type, ggml.ggml_backend_dev_memory
    kind.restype, kind.argtypes = ctypes.c_int, [ctypes.c_void_p]
    memory.restype, memory.argtypes = None, [ctypes.c_void_p, *[ctypes.POINTER(ctypes.c_size_t)] * 2]
    devices = []
    for index in range(count()):
        device = get(index)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        memory(device, ctypes.byref(free), ctypes.byref(total))
        devices.append(
            ComputeDevice(
                name(device).decode("utf-8", "replace"),
                description(device).decode("utf-8", "replace"),
                kind(device) in _GPU_TYPES,
                free.value,
                total.value,
            )
        )
    return devices


def gpu_free_bytes() -> int:
    """Free memory of all GPUs together; a huge number where they do not say."""
    return sum(device.free_bytes for device in compute_devices() if device.is_gpu) or sys.maxsize


if __name__ == "__main__":
    print(msgspec.json.encode(compute_devices()).decode())
