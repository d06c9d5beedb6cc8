"""What a second `batch worker` gives on the same cores, with real small models: a part of bench/scale.py.

The models compute, so two workers on two cores have no more to compute with than one: what this says is what is lost or won by
sharing them. One worker has as many threads as there are cores, and two share them, as everywhere on one machine.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw
from words import prose, sentence

from batch.payloads.chat import ChatPayload, GenerationParams, ImagePart, Message, TextPart
from batch.payloads.embedding import EmbeddingPayload
from batch.queue.jobs import Draft, Origin, Priority, State
from batch.queue.open_store import open_spool, open_store
from batch.queue.store import Store

STARTER = {"BATCH_PROFILE": "starter"}
_ANSWER_TOKENS = 32
_PROMPT_WORDS = 60
_TIMEOUT_S = 240.0


def captions(url: str, count: int, folder: Path) -> list[Draft]:
    """A picture each, no two alike."""
    spool = open_spool(url, folder / ".batch" / "spool")
    drafts = []
    for number in range(count):
        picture = Image.new("RGB", (96, 96), (number * 37 % 256, number * 91 % 256, 200))
        ImageDraw.Draw(picture).ellipse((10, 10, 40 + number % 50, 60), fill=(255, number * 53 % 256, 0))
        data = io.BytesIO()
        picture.save(data, "PNG")
        parts = [ImagePart(blob=(sha256 := spool.keep(data.getvalue()))), TextPart(text="What is this?")]
        payload = ChatPayload(messages=[Message(role="user", content=parts)], generation=_generation(number))
        drafts.append(Draft(payload, Origin.BATCH, Priority.BATCH, blobs=(sha256,)))
    return drafts


def lines(count: int) -> list[Draft]:
    """Prompts that have nothing in common."""
    payloads = [
        ChatPayload(messages=[Message(role="user", content=prose(n, _PROMPT_WORDS))], generation=_generation(n))
        for n in range(count)
    ]
    return [Draft(payload, Origin.BATCH, Priority.BATCH) for payload in payloads]


def texts(count: int) -> list[Draft]:
    """Jobs of sixteen sentences each."""
    payloads = [EmbeddingPayload(inputs=[sentence(n * 16 + at) for at in range(16)]) for n in range(count)]
    return [Draft(payload, Origin.BATCH, Priority.BATCH) for payload in payloads]


def _generation(seed: int) -> GenerationParams:
    return GenerationParams(max_tokens=_ANSWER_TOKENS, temperature=0.0, seed=seed)


class RealWorkers:
    """Some `batch worker` processes of one kind, each with a home of its own."""

    def __init__(self, url: str, kind: str, count: int, folder: Path) -> None:
        self._url, self._kind, self._count, self._folder = url, kind, count, folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> RealWorkers:
        for number in range(self._count):
            home = self._folder / f"{self._kind}-{self._count}-{number}"
            home.mkdir()
            environment = {**os.environ, **STARTER, "BATCH_DATABASE": self._url, "BATCH_HOME": str(home)}
            with (home / "output").open("wb") as output:
                self._processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "batch", "worker", self._kind], env=environment, stdout=output, stderr=output
                    )
                )
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(60)

    def wait_until_ready(self, store: Store) -> None:
        """Until all have their model loaded. Raises SystemExit when one cannot."""
        deadline = time.monotonic() + _TIMEOUT_S
        while sum(node.status == "ready" for node in store.nodes()) < self._count:
            failed = next((node.error for node in store.nodes() if node.status == "failed"), "")
            if failed or time.monotonic() > deadline:
                raise SystemExit(f"a {self._kind} worker is not ready: {failed or 'see its output'}")
            time.sleep(0.1)


def rate(store: Store, drafts: Sequence[Draft]) -> float:
    """Jobs a second, from the submit to the last end. Raises SystemExit when one is not done."""
    jobs = [draft.id for draft in drafts]
    begun = time.perf_counter()
    store.submit(*drafts, durable=True)
    states = store.states(jobs)
    while not all(state.ended for state in states.values()):
        if time.perf_counter() - begun > _TIMEOUT_S:
            raise SystemExit("jobs do not end")
        time.sleep(0.02)
        states = store.states(jobs)
    seconds = time.perf_counter() - begun
    if set(states.values()) != {State.DONE}:
        raise SystemExit(f"not every job was done: {states}")
    return len(jobs) / seconds


def measure_real_workers(url: str, jobs: int) -> dict[str, float]:
    """One worker, and two, for captions and lines by tiny Gemma 4 and for vectors by MiniLM: `jobs` of the first each, after
    some to warm up."""
    figures: dict[str, float] = {}
    rates: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory(prefix="real-workers-") as name:
        folder = Path(name)
        store = open_store(url, home=folder)
        for kind in ("vlm", "embedding"):
            for count in (1, 2):
                with RealWorkers(url, kind, count, folder) as workers:
                    workers.wait_until_ready(store)
                    if kind == "vlm":
                        rate(store, [*captions(url, 2 * count, folder), *lines(2 * count)])
                        rates["captions", count] = rate(store, captions(url, jobs, folder))
                        rates["lines", count] = rate(store, lines(jobs * 2))
                    else:
                        rate(store, texts(4 * count))
                        rates["16 texts", count] = rate(store, texts(jobs * 4))
                for node in store.nodes():
                    store.leave(node.id)
        store.close()
    for work in ("captions", "lines", "16 texts"):
        for count in (1, 2):
            figures[f"{work}/s of {count} real worker{'s' * (count > 1)}"] = rates[work, count]
        figures[f"{work}: 2 real workers / 1"] = rates[work, 2] / rates[work, 1]
    return figures
