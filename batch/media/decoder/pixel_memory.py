"""Memory that a worker and its picture decoder share: pixels go through it without a pipe's copies and switches."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import tempfile
from typing import Any

import numpy as np

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
"""RGB values, (height, width, 3)."""

_CHANNELS = 3


class PixelMemory:
    """One picture at a time. It only grows: what one side has mapped cannot be cut away by the other."""

    def __init__(self, descriptor: int) -> None:
        """`descriptor`: of memory that another process has created."""
        self.descriptor = descriptor
        self._map: mmap.mmap | None = None

    @classmethod
    def create(cls) -> PixelMemory:
        """New memory, which ends with the last process that has it open."""
        if not hasattr(os, "memfd_create"):  # not Linux
            with tempfile.TemporaryFile() as file:
                return cls(os.dup(file.fileno()))
        memory = cls(os.memfd_create("batch-pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
        with contextlib.suppress(OSError, AttributeError):
            fcntl.fcntl(memory.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        return memory

    def write(self, data: bytes) -> None:
        """Put a picture in, in place of the one before. Raises OSError where there is no room."""
        if os.fstat(self.descriptor).st_size < len(data):
            os.ftruncate(self.descriptor, len(data))
        self._mapped(len(data))[: len(data)] = data

    def read(self, width: int, height: int) -> Pixels:
        """The picture, as it stands in the memory until the next one. Raises ValueError where it cannot be that large."""
        size = width * height * _CHANNELS
        return np.frombuffer(self._mapped(size), np.uint8, size).reshape(height, width, _CHANNELS)

    def close(self) -> None:
        """Let go of it; pixels that were read stay readable."""
        self._map = None
        os.close(self.descriptor)

    def _mapped(self, size: int) -> mmap.mmap:
        if self._map is None or len(self._map) < size:
            self._map = mmap.mmap(self.descriptor, max(size, 1))
        return self._map
