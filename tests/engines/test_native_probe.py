"""The probes that set-up and `batch doctor` run: they compute with this build on this machine."""

from __future__ import annotations

import subprocess
import sys

import pytest

from paths import ROOT


@pytest.mark.parametrize("probe", ["llama/probe.py", "speech/whisper/probe.py"])
def test_the_probe_of_the_installed_library_computes_here(probe: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", str(ROOT / "batch" / "workers" / probe)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "computes\n"), done.stderr


@pytest.mark.parametrize("order", ["llama whisper", "whisper llama"])
def test_both_libraries_compute_in_one_process(order: str) -> None:
    """Each has a ggml of its own, in another version: neither may take the other's."""
    modules = {"llama": "batch.workers.llama.probe", "whisper": "batch.workers.speech.whisper.probe"}
    code = "".join(f"import {modules[name]} as probe\nprobe.main()\n" for name in order.split())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "computes\ncomputes\n"), done.stderr[-2000:]
