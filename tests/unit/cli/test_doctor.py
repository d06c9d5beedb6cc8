"""What `batch doctor` says of a build that does not run here."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from batch.cli.doctor import libraries, memory
from batch.memory.compute_device import ComputeDevice
from batch.memory.plan import MemoryPlan, PlanAnswer
from batch.workers import build

TRAP = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"


def test_a_build_that_traps_is_named_with_its_remedy() -> None:
    finding = libraries._computes("llama.cpp", ["-c", TRAP], "")
    assert finding.state == "stopped with illegal instruction" and "make clean setup" in finding.remedy


def test_a_build_without_amx_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = {"variant": "without AMX", "failures": ["for this processor: illegal instruction"]}
    (tmp_path / "note.json").write_text(json.dumps({"pywhispercpp": note}))
    monkeypatch.setattr(build, "BUILD_NOTE", tmp_path / "note.json")
    monkeypatch.setattr(libraries, "_run", lambda arguments: None)
    states = {finding.subject: finding.state for finding in libraries.check_libraries()}
    assert states["whisper.cpp"] == "computes here (compiled without AMX, because of for this processor: illegal instruction)"
    assert states["llama.cpp"] == "computes here", "nobody noted how it was built"


def test_a_module_that_does_not_import_is_named() -> None:
    finding = libraries._imports("speech", ["json", "no_such_module"])
    assert "no_such_module" in finding.state and finding.remedy


NEEDS = {"vlm": 9.7e9, "embedding": 0.3e9, "stt": 2.1e9}
PLAN = MemoryPlan("q8_0", repack=True, width=1, cache_share=0.25, need=5_000_000_000, held=4_000_000_000)


def test_models_that_do_not_fit_into_memory_are_told_with_what_to_set() -> None:
    finding = memory.judge(NEEDS, 8_000_000_000, PlanAnswer())
    assert finding.state == "the models take about 12.4 GB (vlm 9.7, embedding 0.3, stt 2.1); this machine has 8.0 GB"
    assert finding.remedy == "Set vlm.model to a smaller one, or run them where there is more memory."
    assert not memory.judge(NEEDS, 16_000_000_000, PlanAnswer(plan=PLAN)).remedy


def test_what_the_service_will_do_to_make_a_model_fit_is_told() -> None:
    note = "model as configured wants 9.7 GB of memory and 8.0 GB are free for it: its context is kept as q8_0."
    finding = memory.judge(NEEDS, 8_000_000_000, PlanAnswer(plan=replace(PLAN, note=note)))
    assert finding.state.endswith(f"this machine has 8.0 GB. {note}") and not finding.remedy
    refused = memory.judge(NEEDS, 2_000_000_000, PlanAnswer(problem="model needs more: set a smaller one."))
    assert refused.remedy == "model needs more: set a smaller one."


H100 = b"""[{"name": "CUDA0", "description": "NVIDIA H100 80GB HBM3", "is_gpu": true,
"free_bytes": 84400000000, "total_bytes": 84900000000}, {
"name": "CPU", "description": "Intel Xeon", "is_gpu": false, "free_bytes": 130000000000, "total_bytes": 135000000000}]"""
"""As llama.cpp's build with CUDA would tell it: written by hand after its header, not recorded from a run."""


def test_a_gpu_is_told_with_its_memory() -> None:
    devices = msgspec.json.decode(H100, type=list[ComputeDevice])
    finding = libraries.judge_graphics(devices, devices, has_nvidia_driver=True)
    assert finding.state == ("llama.cpp computes on NVIDIA H100 80GB HBM3 (CUDA0), 84.4 of 84.9 GB free, whisper.cpp on CUDA0")
    assert not finding.remedy
    plan = PlanAnswer(plan=replace(PLAN, gpu_need=7_000_000_000))
    assert "and 7.0 GB of the GPU's memory" in memory.judge(NEEDS, 16_000_000_000, plan).state


def test_a_gpu_that_a_library_was_not_built_for_has_a_remedy() -> None:
    all_devices = msgspec.json.decode(H100, type=list[ComputeDevice])
    processor = all_devices[1:]
    assert "GGML_CUDA" in libraries.judge_graphics(processor, processor, has_nvidia_driver=True).remedy
    assert not libraries.judge_graphics(processor, processor, has_nvidia_driver=False).remedy
    speech_without = libraries.judge_graphics(all_devices, processor, has_nvidia_driver=True)
    assert speech_without.state.endswith("whisper.cpp on the CPU") and "GGML_CUDA" in speech_without.remedy
