"""Whether the models fit into this machine's memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from batch.cli.doctor.finding import Finding
from batch.errors import ModelProblem
from batch.model_kind import Kind

if TYPE_CHECKING:
    from batch.settings import Settings

MEMORY_PER_FILE_BYTE = {Kind.VLM: 1.8, Kind.EMBEDDING: 1.5, Kind.STT: 1.3}
"""A worker's resident memory on a CPU by its model's files: the mapped file, what is repacked for the processor's
instructions, the KV and the buffers. 9.7 GB were measured for Gemma 4 E4B's shape, whose files have 5.4 GB."""
SERVICE_BYTES = 300_000_000
"""What the service and its workers take beside the models."""
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def check_memory(settings: Settings) -> Finding:
    """What the models on this machine will take together, against what there is."""
    from batch.catalog import resolve

    needs: dict[str, float] = {}
    for kind in Kind:
        try:
            model = resolve(settings, kind)
        except ModelProblem:
            continue  # it has a finding of its own
        files = [path for path in (model.path, model.mmproj) if path is not None and path.is_file()]
        needs[kind] = MEMORY_PER_FILE_BYTE[kind] * sum(path.stat().st_size for path in files)
    return judge(needs, machine_bytes())


def judge(needs: Mapping[str, float], available: int | None) -> Finding:
    """`needs`: bytes by kind of model; `available`: bytes of memory, None where the system does not say."""
    parts = ", ".join(f"{kind} {need / 1e9:.1f}" for kind, need in needs.items())
    need = sum(needs.values()) + SERVICE_BYTES
    state = f"the models take about {need / 1e9:.1f} GB without a GPU ({parts or 'none is there'})"
    if available is None:
        return Finding("memory", state)
    state += f"; this machine has {available / 1e9:.1f} GB"
    if need <= available:
        return Finding("memory", state)
    largest = max(needs, key=lambda kind: needs[kind])
    return Finding("memory", state, f"Set {largest}.model to a smaller one, or run them where there is more memory.")


def machine_bytes() -> int | None:
    """Memory that this process may use in all: the machine's, or its control group's if that is less."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
    try:
        return min(total, int(CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no such group, or "max"
        return total
