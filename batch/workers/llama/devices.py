"""The devices that llama.cpp sees here, with their memory: `python -m batch.workers.llama.devices` prints them."""

from __future__ import annotations

import sys

import msgspec

from batch.memory.compute_device import ComputeDevice, list_devices
from batch.workers.llama.library import ggml, initialise_library


def compute_devices() -> list[ComputeDevice]:
    """Every device, the processor among them."""
    initialise_library()
    return list_devices(ggml)


def gpu_free_bytes() -> int:
    """Free memory of all GPUs together; a huge number where one does not say, or there is none."""
    gpus = [device for device in compute_devices() if device.is_gpu]
    return sum(gpu.usable_bytes for gpu in gpus) if gpus else sys.maxsize


if __name__ == "__main__":
    print(msgspec.json.encode(compute_devices()).decode())
