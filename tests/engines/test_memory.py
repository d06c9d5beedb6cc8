"""What the chat model takes is known before it is loaded, and an engine that saves memory answers as another does."""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlm_setup
from batch.errors import ModelProblem
from batch.memory.compute_device import ComputeDevice
from batch.memory.machine import MachineMemory
from batch.memory.plan import Budget
from batch.memory.sizes import ContextSizes, KvType
from batch.queue.jobs import Priority
from batch.settings import EmbeddingSettings, SttSettings
from batch.workers.chat import memory_planner
from batch.workers.chat.engine import VlmEngine
from batch.workers.llama import row_tables
from batch.workers.llama.context import KV_TYPES, Context
from batch.workers.llama.devices import compute_devices, gpu_free_bytes
from batch.workers.llama.dry_run import DryRun, read_sizes, weight_sizes
from batch.workers.llama.library import collected_lines, lib
from batch.workers.llama.mapped_file import release_pages
from batch.workers.llama.model import Model
from batch.workers.llama.row_tables import gpu_overrides, table_types
from vlm_setup import TINY, chat, content, run

FILE = TINY / "tiny-gemma4v-text-f16.gguf"
NUMBERS: dict[str, Any] = {"n_batch": 512, "n_ubatch": 512, "sequences": 6}
MIB = 1 << 20


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VlmEngine]:
    """With the context kept as q8_0 and no weights repacked."""
    engine = vlm_setup.loaded(tmp_path_factory.mktemp("home"), kv_cache="q8_0", repack="off", parallel=4)
    yield engine
    engine.close()


@pytest.mark.parametrize(("own_kv", "n_ctx"), [(False, 4096), (True, 4096), (True, 16384)], ids=["shared", "own", "own-large"])
@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_a_dry_run_tells_what_a_context_really_takes(kv_type: KvType, own_kv: bool, n_ctx: int) -> None:
    dry = DryRun(FILE, gpu_layers=0)
    sizes = dry.context_sizes(n_ctx=n_ctx, **NUMBERS, kv_type=kv_type, own_kv=own_kv)
    dry.close()
    model = Model(FILE)
    with collected_lines() as pieces:
        context = Context(model, n_ctx=n_ctx, **NUMBERS, kv_type=kv_type, own_kv=own_kv)
    log = "".join(pieces)
    assert context.n_ctx == n_ctx
    context.close()
    model.close()
    assert sizes is not None
    kv_buffers = sum(float(size) for size in re.findall(r"KV buffer size = +([\d.]+) MiB", log))
    assert sizes.kv > 0 and sizes.kv == pytest.approx(kv_buffers * MIB, abs=MIB / 10)
    (compute,) = re.findall(r"CPU compute buffer size = +([\d.]+) MiB", log)
    assert sizes.compute == pytest.approx(float(compute) * MIB, rel=0.01) and sizes.gpu_compute == 0


def test_what_lies_on_a_gpu_is_told_apart_from_what_lies_on_the_host() -> None:
    # As the library's format strings make it; not recorded from a GPU.
    log = (
        "llama_kv_cache: size = 2048.00 MiB (131072 cells,   4 layers,  4/1 seqs), K (f16): 1024.00 MiB, V (f16): 1024.00 MiB\n"
        "llama_kv_cache: size =  700.00 MiB ( 17920 cells,  20 layers, 34/1 seqs), K (f16):  350.00 MiB, V (f16):  350.00 MiB\n"
        "sched_reserve:      CUDA0 compute buffer size =   512.50 MiB\n"
        "sched_reserve:  CUDA_Host compute buffer size =    20.00 MiB\n"
        "sched_reserve:        CPU compute buffer size =     1.00 MiB\n"
    )
    assert read_sizes(log) == ContextSizes(kv=2748 * MIB, compute=21 * MIB, gpu_compute=int(512.5 * MIB))


def test_weights_are_measured_by_the_file_s_header() -> None:
    sizes = weight_sizes(FILE)
    assert 0.8 * FILE.stat().st_size < sizes.total < FILE.stat().st_size and 0 < sizes.row_tables < sizes.total
    assert sizes.repacked == 0  # half-precision weights stay as they are


@pytest.mark.parametrize("kind", ["Q4_0", "IQ4_NL", "Q8_0"])
def test_a_dry_run_tells_whether_weights_are_copied_into_another_order(tmp_path: Path, kind: str) -> None:
    """Which the library decides by the processor and the type: IQ4_NL wherever there is AVX2, Q8_0 hardly anywhere."""
    quantised = tmp_path / "model.gguf"
    params = lib.llama_model_quantize_default_params()
    params.ftype = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{kind}")
    assert lib.llama_model_quantize(str(FILE).encode(), str(quantised).encode(), ctypes.byref(params)) == 0
    dry = DryRun(quantised, gpu_layers=0)
    dry.close()
    with collected_lines() as pieces:
        Model(quantised).close()
    (copied,) = re.findall(r"CPU_REPACK model buffer size = +([\d.]+) MiB", "".join(pieces)) or ["0"]
    assert dry.reorders_weights == (float(copied) > 0)
    assert weight_sizes(quantised).repacked >= float(copied) * MIB


def test_a_header_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "model.gguf"
    broken.write_bytes(FILE.read_bytes()[:1000])
    with pytest.raises(ModelProblem, match=r"model\.gguf cannot be read"):
        weight_sizes(broken)
    with pytest.raises(ModelProblem, match=r"model\.gguf cannot be loaded"):
        DryRun(broken, gpu_layers=0)


def test_the_processor_is_among_the_devices() -> None:
    devices = compute_devices()
    assert any(not device.is_gpu and device.total_bytes > 0 for device in devices)
    printed = subprocess.run([sys.executable, "-m", "batch.workers.llama.devices"], capture_output=True, text=True, check=True)
    assert [ComputeDevice(**device).name for device in json.loads(printed.stdout)] == [device.name for device in devices]


@pytest.mark.parametrize(
    ("gpus", "free_bytes"), [([(0, 80)], 0), ([(0, 80), (5, 80)], 5), ([(0, 0)], sys.maxsize), ([], sys.maxsize)]
)
def test_a_gpu_that_is_full_is_not_taken_for_one_that_does_not_say(
    monkeypatch: pytest.MonkeyPatch, gpus: list[tuple[int, int]], free_bytes: int
) -> None:
    """`gpus`: free and total bytes of each."""
    processor = ComputeDevice("CPU", "a processor", False, 7, 90)
    devices = [processor, *(ComputeDevice("CUDA", "a GPU", True, free, total) for free, total in gpus)]
    monkeypatch.setattr("batch.workers.llama.devices.compute_devices", lambda: devices)
    assert gpu_free_bytes() == free_bytes


def test_a_mapped_file_is_let_go_and_read_again_when_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(bytes(range(256)) * 16384)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        before = hashlib.sha256(mapped).digest()
        assert release_pages(path) == (len(mapped) if sys.platform == "linux" else 0)
        assert resident(path) == 0
        assert hashlib.sha256(mapped).digest() == before
    assert release_pages(path) == 0


def resident(path: Path) -> int:
    """Bytes of a mapped file that this process holds."""
    at = Path("/proc/self/smaps").read_text().split(str(path))[1] if sys.platform == "linux" else "Rss: 0 kB"
    found = re.search(r"Rss: +(\d+) kB", at)
    assert found is not None
    return int(found[1]) * 1024


def test_an_engine_on_a_small_machine_saves_memory_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = vlm_setup.settings(tmp_path, cache_bytes=0, parallel=1)
    resolved = memory_planner.resolve(settings, memory_planner.Kind.VLM)
    plan = memory_planner.plan_memory(settings, resolved, Budget(1 << 40))
    assert (plan.kv_type, plan.repack, plan.note) == ("f16", True, "")
    caches = memory_planner.MIN_IMAGE_CACHE_BYTES * 3 // 4
    free = plan.need - caches - MIB + memory_planner.SPARE_BYTES + memory_planner.others_bytes(settings)
    monkeypatch.setattr(memory_planner, "machine_memory", lambda: MachineMemory(free, free))
    monkeypatch.setattr(memory_planner, "sibling_bytes", lambda: 0)
    engine = VlmEngine(settings)
    try:
        info = engine.load(lambda _: None)
        assert info.kv_cache == "q8_0" and info.note.endswith("its context is kept as q8_0.")
        assert content(run(engine, chat(tmp_path, "What is this?"))) != ""
    finally:
        engine.close()


def test_room_on_a_gpu_is_left_for_the_models_that_may_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_planner, "gpu_free_bytes", lambda: 10_000_000_000)
    settings = vlm_setup.settings(tmp_path)
    shared = memory_planner.budget_now(settings, has_gpu=True).gpu_free
    assert shared is not None and 6_000_000_000 < shared < 7_000_000_000
    others = {"embedding": EmbeddingSettings(gpu_layers=0), "stt": SttSettings(gpu_layers=0)}
    assert memory_planner.budget_now(settings.model_copy(update=others), has_gpu=True).gpu_free == 10_000_000_000
    assert memory_planner.budget_now(settings, has_gpu=False).gpu_free is None


def test_an_engine_that_would_not_fit_is_refused_before_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_planner, "machine_memory", lambda: MachineMemory(1 << 30, 1 << 20))
    with pytest.raises(ModelProblem, match=r"needs at least \d+\.\d GB of memory and 0\.0 GB are free for it: set a smaller"):
        VlmEngine(vlm_setup.settings(tmp_path)).load(lambda _: None)


def test_a_quantised_conversation_goes_on_in_place_and_after_it_lay_in_host_memory(engine: VlmEngine, tmp_path: Path) -> None:
    text = "Tell me about the red circle in the picture and about everything that lies near it. " * 12
    first = run(engine, chat(tmp_path, text))
    again = run(engine, chat(tmp_path, text))
    assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens - 1
    assert content(again) == content(first)
    run(engine, chat(tmp_path, "Something else altogether, which takes the sequence for itself. " * 12))
    back = run(engine, chat(tmp_path, text))
    assert back.usage.prompt_tokens_details.cached_tokens > back.usage.prompt_tokens // 2
    assert content(back) == content(first)


def test_quantised_bulk_jobs_share_their_beginning_and_are_all_answered(engine: VlmEngine, tmp_path: Path) -> None:
    shared = "You describe pictures of coloured shapes in one short sentence and nothing else. " * 12
    works = [
        chat(tmp_path, f"{shared} Number {number}.", priority=Priority.BATCH, generation={"max_tokens": 12, "ignore_eos": True})
        for number in range(4)
    ]
    works[0].waiting = works[1:]
    assert engine.run(works[0]) is None
    results: list[Any] = [work.result for work in works]
    assert [result.usage.completion_tokens for result in results] == [12] * 4
    shared_tokens = [result.usage.prompt_tokens_details.cached_tokens for result in results]
    assert sum(tokens > results[0].usage.prompt_tokens // 2 for tokens in shared_tokens) >= 3


def test_a_picture_is_described_in_a_quantised_context(engine: VlmEngine, tmp_path: Path) -> None:
    parts = [vlm_setup.picture(tmp_path), {"type": "text", "text": "Describe this image."}]
    assert "red circle" in content(run(engine, chat(tmp_path, parts)))


def test_a_models_tables_can_be_put_on_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no GPU here: the processor's plain buffers stand for one."""
    types = table_types(FILE)
    assert types and gpu_overrides(types) is None
    processor = row_tables._function("ggml_backend_dev_by_type", ctypes.c_void_p, ctypes.c_int)(0)
    monkeypatch.setattr(row_tables, "only_gpu", lambda _: processor)
    overrides = gpu_overrides(types)
    assert [bool(override.buffer_type) for override in overrides] == [True] * len(row_tables.ROW_TABLES) + [False]
    answers = []
    for tables_on_gpu in (False, True):
        model = Model(FILE, gpu_layers=0, tables_on_gpu=tables_on_gpu)
        context = Context(model, n_ctx=256, threads=1)
        context.decode_tokens(model.tokenize("Once there was a red circle"), 0, 0, output=True)
        answers.append(context.logits().copy())
        context.close()
        model.close()
    assert np.array_equal(*answers)


def test_tables_of_a_type_whose_rows_a_device_cannot_read_stay_with_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    processor = row_tables._function("ggml_backend_dev_by_type", ctypes.c_void_p, ctypes.c_int)(0)
    monkeypatch.setattr(row_tables, "only_gpu", lambda _: processor)
    assert row_tables._reads_rows(processor, 14)
    monkeypatch.setattr(row_tables, "_reads_rows", lambda device, kind: kind != 1)
    assert gpu_overrides(frozenset({0})) is not None and gpu_overrides(frozenset({0, 1})) is None
