"""A device that a model can compute on, as the model library describes it."""

from __future__ import annotations

import msgspec


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
    def summary(self) -> str:
        """What people are told of it."""
        memory = f", {self.free_bytes / 1e9:.1f} of {self.total_bytes / 1e9:.1f} GB free" if self.total_bytes else ""
        return f"{self.description} ({self.name}){memory}"
