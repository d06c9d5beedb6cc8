"""What the parts of a model take, in bytes."""

from __future__ import annotations

from typing import Literal

import msgspec

KvType = Literal["f16", "q8_0"]
"""How the keys and values of a context are kept."""


GPU_PROCESS_BYTES = 500_000_000
"""What a process takes of a GPU beside its model: the driver's own, and the libraries' kernels and work space."""


class WeightSizes(msgspec.Struct, frozen=True):
    """Bytes of a model file's tensors."""

    total: int
    repacked: int
    """At most so many are copied into another order for the processor."""
    row_tables: int
    """So many are read by rows, from the mapped file."""


class ContextSizes(msgspec.Struct, frozen=True):
    """Bytes that a context takes."""

    kv: int
    compute: int
    """Buffers of the processor."""
    gpu_compute: int
    """Buffers of the GPUs."""

    def __add__(self, other: ContextSizes) -> ContextSizes:
        return ContextSizes(self.kv + other.kv, self.compute + other.compute, self.gpu_compute + other.gpu_compute)
