"""Which of the devices that a model library sees is a GPU, and which has memory of its own."""

from __future__ import annotations

from typing import Any

import pytest

from batch.memory.compute_device import list_devices, only_gpu

PROCESSOR, OWN_MEMORY_GPU, SHARED_MEMORY_GPU, ACCELERATOR = range(4)


def library(*kinds: int) -> Any:
    """ggml's functions, for devices of these kinds; a device's pointer is 100 more than its number."""

    def memory(handle: int, free: Any, total: Any) -> None:
        free._obj.value, total._obj.value = handle * 10, handle * 20

    return {
        "ggml_backend_dev_count": lambda: len(kinds),
        "ggml_backend_dev_get": lambda index: 100 + index,
        "ggml_backend_dev_type": lambda handle: kinds[handle - 100],
        "ggml_backend_dev_name": lambda handle: b"device %d" % handle,
        "ggml_backend_dev_description": lambda handle: b"made up",
        "ggml_backend_dev_memory": memory,
    }


@pytest.mark.parametrize(
    ("kinds", "only"),
    [
        ((PROCESSOR,), None),
        ((ACCELERATOR, OWN_MEMORY_GPU, SHARED_MEMORY_GPU, PROCESSOR), 101),
        ((SHARED_MEMORY_GPU, PROCESSOR), None),
        ((OWN_MEMORY_GPU, OWN_MEMORY_GPU, PROCESSOR), None),
    ],
)
def test_tables_go_to_a_gpu_only_where_one_has_memory_of_its_own(kinds: tuple[int, ...], only: int | None) -> None:
    assert only_gpu(library(*kinds)) == only


def test_a_gpu_that_shares_the_machines_memory_is_a_gpu_too() -> None:
    devices = list_devices(library(SHARED_MEMORY_GPU, OWN_MEMORY_GPU, PROCESSOR, ACCELERATOR))
    assert [device.is_gpu for device in devices] == [True, True, False, False]
    assert [device.name for device in devices] == ["device 100", "device 101", "device 102", "device 103"]
    assert (devices[1].free_bytes, devices[1].total_bytes) == (1010, 2020)
