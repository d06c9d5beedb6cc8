"""Sound files of the inbox heard beside each other (`stt.parallel = 2`) against one after the other (1).

    python bench/speech_bulk.py [--model FILE | turbo-shape] [--files N] [--rounds N] [--threads N] [--json]

Two whole services take turns: in each round each gets the same files, and what counts is the time from the first to the last
result, and the CPU time of all its processes. The files are half a minute to a minute of the clip of tests/data, with pauses.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import whisper_turbo_shape
from measure import Report, finish, machine, options
from peer import ROOT, Peer, ours

from batch.media.sound.audio import load
from batch.media.sound.samples import SAMPLE_RATE, Samples
from batch.settings import default_models_dir

BAR = 0.9
"""Beside / one after the other, at most: what a second copy of the model has to bring."""
DEADLINE_S = 1800.0


def sound(number: int) -> Samples:
    """A file like no other: the clip three to five times, with pauses of one to three seconds."""
    clip = load(ROOT / "tests" / "data" / "jfk.wav")
    pause = np.zeros((1 + number % 3) * SAMPLE_RATE + number, np.float32)
    return np.concatenate([part for _ in range(3 + number % 3) for part in (clip, pause)])


def drop(peer: Peer, count: int, seed: int) -> tuple[float, float]:
    """Seconds from the first file to the last result, and of CPU."""
    assert peer.home is not None
    outbox, used = peer.home / "outbox", peer.cpu() or 0.0
    names = [f"{seed}-{number}.wav" for number in range(count)]
    files = [(name, _wav(sound(seed * count + number))) for number, name in enumerate(names)]
    begun = time.perf_counter()
    for name, data in files:
        part = peer.home / "inbox" / f".{name}"
        part.write_bytes(data)
        part.rename(peer.home / "inbox" / name)
    end = time.monotonic() + DEADLINE_S
    while not all((outbox / f"{name}.json").exists() for name in names):
        if time.monotonic() > end:
            raise SystemExit("the inbox was not done in time")
        time.sleep(0.05)
    return time.perf_counter() - begun, (peer.cpu() or 0.0) - used


def _wav(samples: Samples) -> bytes:
    pcm = (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
    head = b"RIFF" + (36 + len(pcm)).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    form = (
        b"\x01\x00\x01\x00" + SAMPLE_RATE.to_bytes(4, "little") + (2 * SAMPLE_RATE).to_bytes(4, "little") + b"\x02\x00\x10\x00"
    )
    return head + form + b"data" + len(pcm).to_bytes(4, "little") + pcm


def main() -> int:
    parser = options(__doc__ or "", rounds=3)
    parser.add_argument("--model", type=Path, default=default_models_dir() / "ggml-base.bin")
    parser.add_argument("--files", type=int, default=4)
    given = parser.parse_args()
    given.model = whisper_turbo_shape.named(given.model)
    if not given.model.is_file():
        raise SystemExit(f"{given.model} is not there: `batch models pull whisper-base`.")
    report = Report(f"Speech in bulk ({given.model.name})", machine(given.threads, given.rounds))
    wall: dict[str, list[float]] = {"1": [], "2": []}
    cpu: dict[str, list[float]] = {"1": [], "2": []}
    with contextlib.ExitStack() as stack:
        peers = {
            width: stack.enter_context(ours(given.threads, stt=str(given.model), stt_parallel=width, name=width))
            for width in wall
        }
        for peer in peers.values():
            drop(peer, 2, 1000)  # loads the second copy
        for number in range(given.rounds):
            for width, peer in peers.items():
                seconds, used = drop(peer, given.files, number)
                wall[width].append(seconds)
                cpu[width].append(used)
                print(f"stt.parallel = {width}: {seconds:.2f} s", file=sys.stderr, flush=True)
    medians = {width: statistics.median(values) for width, values in wall.items()}
    ratio = medians["2"] / medians["1"]
    for width in wall:
        report.say(f"{given.files} files, stt.parallel = {width}: {medians[width]:.2f} s, CPU {min(cpu[width]):.2f} s")
    report.say(
        f"beside / one after the other: {ratio:.2f}, CPU {min(cpu['2']) / min(cpu['1']):.2f} (at most {BAR})", ratio <= BAR
    )
    return finish([report], given.json)


if __name__ == "__main__":
    sys.exit(main())
