"""Two files' chunks one after the other, with all threads, against beside each other, with half the threads each.

    python bench/speech_overlap.py [--model FILE] [--rounds N] [--threads N] [--json]

Whisper alone, no service: what the worker could win if it heard two files at once (the decoder of one beside the encoder of
the other). The chunks are 29 seconds of the clip of tests/data. A second context beside the first also costs its memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from peer import ROOT

from batch.media.sound.audio import load
from batch.media.sound.samples import SAMPLE_RATE, Samples
from batch.settings import default_models_dir
from batch.workers.speech.whisper.decoding import Decoding
from batch.workers.speech.whisper.model import WhisperModel

CHUNK_S = 29
CHUNKS = 2
"""Of each of the two files."""
BAR = 0.9
"""Beside / one after the other, at most: what would be worth a second context and jobs beside each other."""


def hear(model: WhisperModel, chunk: Samples, threads: int, times: int) -> None:
    for _ in range(times):
        model.transcribe(chunk, Decoding(temperature_inc=0.0), threads)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=default_models_dir() / "ggml-base.bin")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.threads < 2:
        raise SystemExit("speech_overlap: one thread cannot be shared by two files.")
    clip = load(ROOT / "tests" / "data" / "jfk.wav")
    chunk = np.resize(clip, CHUNK_S * SAMPLE_RATE)
    one = WhisperModel(given.model)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    other = WhisperModel(given.model)
    both = (one, other)

    def beside(threads: int) -> None:
        helpers = [threading.Thread(target=hear, args=(model, chunk, threads, CHUNKS)) for model in both]
        for helper in helpers:
            helper.start()
        for helper in helpers:
            helper.join()

    ways: dict[str, Callable[[], None]] = {
        "one after the other": lambda: hear(one, chunk, given.threads, 2 * CHUNKS),
        "beside, half the threads each": lambda: beside(given.threads // 2),
    }
    for model in both:
        hear(model, chunk[: 5 * SAMPLE_RATE], given.threads, 1)
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(given.rounds):
        for name, way in ways.items():
            begun, used = time.perf_counter(), time.process_time()
            way()
            wall[name].append(time.perf_counter() - begun)
            cpu[name].append(time.process_time() - used)
            print(f"{name}: {wall[name][-1]:.2f} s", file=sys.stderr, flush=True)
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    medians = {name: statistics.median(values) for name, values in wall.items()}
    least_cpu = {name: min(values) for name, values in cpu.items()}
    serial, *others = ways
    best = min(others, key=lambda name: medians[name])
    ratio = medians[best] / medians[serial]
    if given.json:
        print(json.dumps({"wall": medians, "cpu": least_cpu, "ratio": ratio, "memory_mib": memory, "worth": ratio <= BAR}))
        return 0
    print(f"Two files' chunks ({given.model.name}, {given.threads} threads, load {os.getloadavg()[0]:.1f})")
    for name in ways:
        print(f"  {name:32} {medians[name]:.2f} s, {least_cpu[name]:.2f} s of CPU")
    worth = "worth building" if ratio <= BAR else "not worth building"
    print(f"  best beside / one after the other {ratio:.2f} (bar {BAR}: {worth}); a second model takes {memory:.0f} MiB more")
    return 0


if __name__ == "__main__":
    sys.exit(main())
