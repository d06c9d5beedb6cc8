"""A worker loads its model library before numpy, PyAV and pillow-heif, whose C++ runtime a CUDA build cannot live with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from batch.queue.jobs import Kind
from batch.settings import Settings
from paths import TINY_GEMMA4V

COMPILED = ("numpy", "av", "pillow_heif", "PIL")

WATCH = """
import os, runpy, sys
order = []
sys.addaudithook(lambda event, args: order.append(args[0]) if event == "import" else None)
sys.argv = ["batch.workers", KIND, str(os.dup(2)), ""]
from batch.workers import worker
worker.Worker = lambda *_, **__: sys.exit(" ".join(order))
runpy.run_module("batch.workers", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("kind", "library"),
    [(Kind.VLM, "llama_cpp.llama_cpp"), (Kind.EMBEDDING, "llama_cpp.llama_cpp"), (Kind.STT, "_pywhispercpp")],
)
def test_a_worker_loads_its_model_library_before_other_compiled_modules(tmp_path: Path, kind: Kind, library: str) -> None:
    models = {kind.value: {"model": str(TINY_GEMMA4V / "tiny-gemma4v-text-f16.gguf")}}
    settings = Settings(home=tmp_path, **models)
    process = subprocess.Popen(
        [sys.executable, "-c", WATCH.replace("KIND", repr(kind.value))],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stderr is not None
    with process, process.stdin, process.stderr:
        process.stdin.write(f"{'ab' * 16} {settings.model_dump_json()}\n")
        process.stdin.flush()  # it stays open: its end would be the worker's
        order = process.stderr.read().split()
    assert library in order, " ".join(order[-200:])
    others = [order.index(module) for module in COMPILED if module in order]
    assert others, "the engine uses one of them"
    assert order.index(library) < min(others)
