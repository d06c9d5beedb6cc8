"""The devices that whisper.cpp sees here, with their memory: `python -m batch.workers.speech.whisper.devices` prints them."""

from __future__ import annotations

import msgspec

from batch.memory.compute_device import ComputeDevice, list_devices
from batch.workers.speech.whisper.library import hook_log, library


def compute_devices() -> list[ComputeDevice]:
    """Every device, the processor among them. What a build could compute on says nothing: one with CUDA has no GPU on a machine
    without."""
    hook_log()
    return list_devices(library)


def used_gpu() -> ComputeDevice | None:
    """The GPU that whisper.cpp computes on where it may, the first, with what is free on it now; None: there is none."""
    return next((device for device in compute_devices() if device.is_gpu), None)


if __name__ == "__main__":
    print(msgspec.json.encode(compute_devices()).decode())
