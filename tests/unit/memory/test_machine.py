"""What memory is free: the machine's, or what a control group leaves of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch.errors import ModelProblem
from batch.memory import machine
from batch.memory.compute_device import ComputeDevice
from batch.memory.machine import MachineMemory, machine_memory, require_gpu_memory, require_memory, resident_bytes

GB = 1_000_000_000


def system(root: Path, **files: str) -> Path:
    """A folder with the system's files: `_` in a name stands for `/`, and 16 GB of memory of which 10 are free."""
    texts = {"proc/meminfo": "MemTotal: 16000000 kB\nMemFree: 1 kB\nMemAvailable: 10000000 kB\nSwapFree: 1000 kB\n", **files}
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_memory_that_caches_hold_counts_as_free(tmp_path: Path) -> None:
    assert machine_memory(system(tmp_path)) == MachineMemory(16_384_000_000, 10_240_000_000, 1_024_000)


@pytest.mark.parametrize("folder", ["sys/fs/cgroup/user/job", "sys/fs/cgroup/user", "sys/fs/cgroup"])
def test_the_limit_of_a_control_group_counts_and_that_of_any_group_around_it(tmp_path: Path, folder: str) -> None:
    files = {
        "proc/self/cgroup": "0::/user/job\n",
        f"{folder}/memory.max": f"{4 * GB}\n",
        f"{folder}/memory.current": f"{3 * GB}\n",
        f"{folder}/memory.stat": f"anon 1\nfile {GB + 7}\nshmem 7\n",
    }
    assert machine_memory(system(tmp_path, **files)) == MachineMemory(4 * GB, 2 * GB, 1_024_000)


def test_a_group_of_version_1_without_a_limit_changes_nothing(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "5:cpu:/x\n4:memory:/x\n",
        "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/x/memory.usage_in_bytes": "8\n",
        "sys/fs/cgroup/memory/x/memory.stat": "cache 1\ntotal_cache 4\ntotal_shmem 1\n",
    }
    assert machine_memory(system(tmp_path, **files)) == MachineMemory(16_384_000_000, 10_240_000_000, 1_024_000)
    (tmp_path / "sys/fs/cgroup/memory/x/memory.limit_in_bytes").write_text(f"{GB}\n")
    assert machine_memory(tmp_path) == MachineMemory(GB, GB - 5, 1_024_000)


def test_a_group_without_a_number_has_no_limit(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": "5\n"}
    assert machine_memory(system(tmp_path, **files)) == MachineMemory(16_384_000_000, 10_240_000_000, 1_024_000)


def test_a_process_holds_what_its_status_says_and_one_that_is_gone_nothing(tmp_path: Path) -> None:
    root = system(tmp_path, **{"proc/7/status": "Name:\tbatch\nVmRSS:\t  2000 kB\n"})
    assert resident_bytes(7, root) == 2_048_000
    assert resident_bytes(8, root) == 0


def test_a_model_for_which_there_is_no_room_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "machine_memory", lambda: MachineMemory(8 * GB, 1 * GB, 500_000_000))
    require_memory("whisper-large-v3-turbo", 1_400_000_000, "stt.model")
    with pytest.raises(ModelProblem) as refused:
        require_memory("whisper-large-v3-turbo", 2 * GB, "stt.model")
    assert refused.value.message == (
        "whisper-large-v3-turbo needs about 2.0 GB of memory and 1.5 GB are free: set a smaller stt.model, or end other "
        "programs."
    )


def test_a_model_that_does_not_fit_onto_the_gpu_is_refused_in_one_sentence_and_one_on_a_gpu_that_says_nothing_is_tried() -> (
    None
):
    gpu = ComputeDevice("CUDA0", "NVIDIA H100 80GB HBM3", True, 2_400_000_000, 84_900_000_000)
    require_gpu_memory("whisper-large-v3-turbo", 2_400_000_000, "stt", gpu.usable_bytes)
    require_gpu_memory("whisper-large-v3-turbo", 99 * GB, "stt", ComputeDevice("GPU", "a GPU", True, 0, 0).usable_bytes)
    with pytest.raises(ModelProblem) as refused:
        require_gpu_memory("whisper-large-v3-turbo", 2_600_000_000, "stt", gpu.usable_bytes)
    assert refused.value.message == (
        "whisper-large-v3-turbo needs about 2.6 GB of the GPU's memory and 2.4 GB of it are free: set stt.gpu_layers to 0, or "
        "a smaller stt.model."
    )
