"""batch/workers/speech/bulk: how many copies of a model there may be, and which memory they are counted in."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from batch.catalog.resolved import Resolved
from batch.errors import ModelProblem
from batch.memory.compute_device import ComputeDevice
from batch.memory.machine import MachineMemory
from batch.memory.sizes import GPU_PROCESS_BYTES
from batch.settings import SttSettings
from batch.workers.speech.bulk import models
from batch.workers.speech.bulk.models import ModelCopies, needed_bytes
from batch.workers.speech.whisper.model import WhisperModel

FILE_BYTES = 1_000_000
GPU = ComputeDevice("CUDA0", "NVIDIA H100 80GB HBM3", True, 2_500_000, 80_000_000_000)


class Loaded:
    """A model that takes nothing."""

    def __init__(self, path: Path, gpu: bool = False) -> None:
        self.on_gpu = gpu

    def close(self) -> None:
        pass


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Resolved:
    path = tmp_path / "turbo.bin"
    path.write_bytes(bytes(FILE_BYTES))
    monkeypatch.setattr(models, "WhisperModel", Loaded)
    return Resolved("turbo", "stt", path)


def copies(entry: Resolved, parallel: int | str, *, on_gpu: bool) -> ModelCopies:
    settings = SttSettings.model_validate({"parallel": parallel})
    return ModelCopies(cast(WhisperModel, Loaded(entry.path)), entry, settings, on_gpu=on_gpu)


def test_a_model_on_a_gpu_has_no_copy_unless_it_is_asked_for(entry: Resolved) -> None:
    assert copies(entry, "auto", on_gpu=True).width == 1
    assert copies(entry, 3, on_gpu=True).width == 3


def test_a_copy_on_a_gpu_needs_twice_its_memory_there_and_none_of_the_machines(
    entry: Resolved, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "machine_memory", lambda: MachineMemory(8 << 30, 0))
    monkeypatch.setattr(models, "used_gpu", lambda: replace_free(GPU, 2_600_000))
    assert cast(Loaded, copies(entry, 2, on_gpu=True).model(1)).on_gpu
    monkeypatch.setattr(models, "used_gpu", lambda: replace_free(GPU, 2_599_999))
    with pytest.raises(ModelProblem, match=r"another copy of turbo needs about 0\.0 GB of the GPU's memory"):
        copies(entry, 2, on_gpu=True).model(1)


def test_the_first_model_on_a_gpu_counts_what_its_process_takes_there(entry: Resolved) -> None:
    assert needed_bytes(entry.path, on_gpu=True) == needed_bytes(entry.path, on_gpu=False) + GPU_PROCESS_BYTES


def replace_free(gpu: ComputeDevice, free_bytes: int) -> ComputeDevice:
    return ComputeDevice(gpu.name, gpu.description, gpu.is_gpu, free_bytes, gpu.total_bytes)
