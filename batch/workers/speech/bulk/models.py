"""The copies of a Whisper model with which bulk jobs are heard beside each other."""

from __future__ import annotations

import os
from pathlib import Path

from batch.catalog.resolved import Resolved
from batch.errors import ModelProblem
from batch.memory.machine import machine_memory
from batch.memory.sizes import GPU_PROCESS_BYTES
from batch.settings import SttSettings
from batch.workers.speech.whisper.devices import used_gpu
from batch.workers.speech.whisper.model import WhisperModel

MEMORY_PER_FILE_BYTE = 1.3
"""What whisper.cpp takes, by its model's file, which it reads into memory of its own."""
_AUTO_WIDTH = 2
"""Two files on two cores took 0.84 of the time with Whisper base, 0.60 with tiny.en (bench/speech_overlap.py)."""
_SPARE_MEMORY = 2
"""A copy is made where so many times its memory are free: other models and programs need some, too."""


def needed_bytes(path: Path, *, on_gpu: bool) -> int:
    """About what a model takes: of the machine's memory, or of a GPU's where it lies there."""
    return int(MEMORY_PER_FILE_BYTE * path.stat().st_size) + (GPU_PROCESS_BYTES if on_gpu else 0)


class ModelCopies:
    """The model that is there, and copies of it that are loaded when they are wanted first."""

    def __init__(self, first: WhisperModel, entry: Resolved, settings: SttSettings, *, on_gpu: bool) -> None:
        self._entry, self._on_gpu = entry, on_gpu
        self._models = [first]
        self.width = _width(settings, on_gpu=on_gpu)
        """How many jobs may be heard beside each other; less once a copy could not be loaded."""

    def model(self, number: int) -> WhisperModel:
        """A copy, from 0, which is the one that was there. Raises ModelProblem where it cannot be loaded."""
        while len(self._models) <= number:
            need, free = needed_bytes(self._entry.path, on_gpu=False), self._free_bytes()
            if free is not None and free < _SPARE_MEMORY * need:
                where = "the GPU's memory" if self._on_gpu else "memory"
                raise ModelProblem(
                    f"another copy of {self._entry.name} needs about {need / 1e9:.1f} GB of {where} and "
                    f"{free / 1e9:.1f} GB are free: set stt.parallel to {number} or end other programs."
                )
            self._models.append(WhisperModel(self._entry.path, gpu=self._on_gpu))
        return self._models[number]

    def _free_bytes(self) -> int | None:
        """Of the memory that copies lie in; None where nothing says."""
        if not self._on_gpu:
            memory = machine_memory()
            return memory.free if memory is not None else None
        gpu = used_gpu()
        return gpu.usable_bytes if gpu is not None else None

    def close(self) -> None:
        """Free all of them."""
        while self._models:
            self._models.pop().close()


def _width(settings: SttSettings, *, on_gpu: bool) -> int:
    if settings.parallel != "auto":
        return settings.parallel
    if on_gpu:
        return 1  # one file keeps it busy, and its memory is the dearest
    return min(_AUTO_WIDTH, settings.threads or _AUTO_WIDTH, os.cpu_count() or 1)
