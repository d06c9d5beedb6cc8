"""The copies of a Whisper model with which bulk jobs are heard beside each other."""

from __future__ import annotations

import os
import re

import _pywhispercpp as pw

from batch.catalog.resolved import Resolved
from batch.errors import ModelProblem
from batch.memory.machine import machine_memory
from batch.settings import SttSettings
from batch.workers.speech.whisper.model import WhisperModel

MEMORY_PER_FILE_BYTE = 1.3
"""What whisper.cpp takes, by its model's file, which it reads into memory of its own."""
_AUTO_WIDTH = 2
"""Two files on two cores took 0.84 of the time with Whisper base, 0.60 with tiny.en (bench/speech_overlap.py)."""
_SPARE_MEMORY = 2
"""A copy is made where so many times its memory are free: other models and programs need some, too."""
_NO_GPU = frozenset({"WHISPER", "CPU", "BLAS"})
"""What whisper.cpp lists among its devices that is none."""


class ModelCopies:
    """The model that is there, and copies of it that are loaded when they are wanted first."""

    def __init__(self, first: WhisperModel, entry: Resolved, settings: SttSettings) -> None:
        self._entry, self._uses_gpu = entry, settings.gpu_layers != 0
        self._models = [first]
        self.width = _width(settings)
        """How many jobs may be heard beside each other; less once a copy could not be loaded."""

    def model(self, number: int) -> WhisperModel:
        """A copy, from 0, which is the one that was there. Raises ModelProblem where it cannot be loaded."""
        while len(self._models) <= number:
            need, memory = int(MEMORY_PER_FILE_BYTE * self._entry.path.stat().st_size), machine_memory()
            if memory is not None and memory.free < _SPARE_MEMORY * need:
                raise ModelProblem(
                    f"another copy of {self._entry.name} needs about {need / 1e9:.1f} GB of memory and "
                    f"{memory.free / 1e9:.1f} GB are free: set stt.parallel to {number} or end other programs."
                )
            self._models.append(WhisperModel(self._entry.path, gpu=self._uses_gpu))
        return self._models[number]

    def close(self) -> None:
        """Free all of them."""
        while self._models:
            self._models.pop().close()


def _width(settings: SttSettings) -> int:
    if settings.parallel != "auto":
        return settings.parallel
    if settings.gpu_layers != 0 and _has_gpu():
        return 1  # one file keeps it busy, and its memory is the dearest
    return min(_AUTO_WIDTH, settings.threads or _AUTO_WIDTH, os.cpu_count() or 1)


def _has_gpu() -> bool:
    return bool(set(re.findall(r"(\w+) : ", pw.whisper_print_system_info())) - _NO_GPU)
