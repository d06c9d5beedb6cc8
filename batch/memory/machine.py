"""How much memory this machine has and how much of it is free, control groups considered."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from batch.errors import ModelProblem

ROOT = Path("/")
_UNLIMITED_BYTES = 1 << 60
"""A control group's limit from here on is none: version 1 writes a huge number."""


@dataclass(frozen=True, slots=True)
class MachineMemory:
    """Bytes that the processes here can have."""

    total: int
    """Of the machine, or what its control group allows if that is less."""
    free: int
    """Of that, what nobody holds: caches that the system would give up count as free."""
    swap: int = 0
    """Free bytes of swap: with it, memory that is short makes things slow and ends no process."""


def machine_memory(root: Path = ROOT) -> MachineMemory | None:
    """The memory of now; None where the system does not say. `root`: the folder above `proc` and `sys`."""
    memory = _of_machine(root)
    if memory is None:
        return None
    total, free = memory.total, memory.free
    for limit, used in _control_groups(root):
        if limit < min(total, _UNLIMITED_BYTES):
            total = limit
        if limit < _UNLIMITED_BYTES:
            free = min(free, max(0, limit - used))
    return MachineMemory(total, free, memory.swap)


def _of_machine(root: Path) -> MachineMemory | None:
    fields = _fields(root / "proc/meminfo", 1024)
    if "MemTotal" in fields and "MemAvailable" in fields:
        return MachineMemory(fields["MemTotal"], fields["MemAvailable"], fields.get("SwapFree", 0))
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
    return MachineMemory(total, total)


def _control_groups(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, bytes in use without caches that can be dropped) of this process's control groups that have a limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if controllers == "" or "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup" / ("memory" if controllers else "")
            own = base / name.strip("/")
            # In a container the name may be the host's, and the group's files lie at the root.
            for group in (*(path for path in (own, *own.parents) if path.is_relative_to(base)),):
                if limits := _limit(group):
                    yield limits


def _limit(group: Path) -> tuple[int, int] | None:
    for limit_name, used_name, cache_name, shared_name in (
        ("memory.max", "memory.current", "file", "shmem"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache", "total_shmem"),
    ):
        try:
            limit, used = int((group / limit_name).read_text()), int((group / used_name).read_text())
        except (OSError, ValueError):  # no such group, or "max"
            continue
        statistics = _fields(group / "memory.stat")
        cache = statistics.get(cache_name, 0) - statistics.get(shared_name, 0)  # files in memory alone cannot be dropped
        return limit, max(0, used - cache)
    return None


def resident_bytes(pid: int, root: Path = ROOT) -> int:
    """What a process holds in memory, mapped files included; 0 where it is gone or the system does not say."""
    return _fields(root / f"proc/{pid}/status", 1024).get("VmRSS", 0)


def sibling_bytes(root: Path = ROOT) -> int:
    """What the other processes that this one's parent started hold in memory."""
    own = os.getpid()
    try:
        lists = [(task / "children").read_text() for task in (root / f"proc/{os.getppid()}/task").iterdir()]
    except OSError:
        return 0
    return sum(resident_bytes(int(pid), root) for text in lists for pid in text.split() if int(pid) != own)


def _fields(path: Path, unit: int = 1) -> dict[str, int]:
    """The numbers of a file of lines "name: number" or "name number", times `unit`; {} where it is not there."""
    fields: dict[str, int] = {}
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError):
        return fields
    for line in text.splitlines():
        words = line.replace(":", " ").split()
        if len(words) > 1 and words[1].isdigit():
            fields[words[0]] = int(words[1]) * unit
    return fields


def require_memory(name: str, need: int, key: str) -> None:
    """Raise ModelProblem where a model that needs so many bytes would bring this machine down; `key`: the setting that names
    the model."""
    memory = machine_memory()
    if memory is not None and need > memory.free + memory.swap:
        raise ModelProblem(
            f"{name} needs about {need / 1e9:.1f} GB of memory and {(memory.free + memory.swap) / 1e9:.1f} GB are free: set "
            f"a smaller {key}, or end other programs."
        )


def require_gpu_memory(name: str, need: int, section: str, free: int) -> None:
    """Raise ModelProblem where a model needs more bytes than are free on the GPU; `section`: of the settings that name it."""
    if need > free:
        raise ModelProblem(
            f"{name} needs about {need / 1e9:.1f} GB of the GPU's memory and {free / 1e9:.1f} GB of it are free: set "
            f"{section}.gpu_layers to 0, or a smaller {section}.model."
        )
