"""What it brings to encode the next pictures while others are described: captions with and without that, in turn.

    python bench/encode_ahead.py [--model tiny|e4b-shape] [--pictures N] [--size 320x240] [--parallel auto] [--rounds N]
                                 [--threads N]

One engine in this process, no service and no queue: its bulk scheduler gets all jobs as a worker gives them to it, each with a
picture that no other shows and an answer of 48 tokens. Tokens a second of each round, how long the parts of a picture's way
took by the clock (calls that return before a GPU is done count as what they took), and the ratio of the medians. Without a
GPU the thread that encodes is switched on all the same: `--threads 1` on two cores says what free cores bring.
"""

from __future__ import annotations

import base64
import hashlib
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import e4b_shape
from bulk import ANSWER_TOKENS, CAPTION, ImmediateReport
from chat import SUBJECTS, Subject, picture
from measure import finish, machine, options

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "support"))

from batch.queue.jobs import Kind, Priority  # noqa: E402
from batch.settings import Settings, VlmSettings  # noqa: E402
from batch.workers.chat.engine import VlmEngine  # noqa: E402
from scripted_work import ScriptedWork  # noqa: E402


def captions(folder: Path, first: int, count: int, size: tuple[int, int], threads: int) -> list[ScriptedWork]:
    """Jobs of the inbox, the pictures with the numbers from `first` on; each may use so many threads."""
    works = []
    for number in range(first, first + count):
        data = base64.b64decode(picture(number, size).partition(",")[2])
        sha256 = hashlib.sha256(data).hexdigest()
        (folder / sha256).write_bytes(data)
        request = {
            "messages": [{"role": "user", "content": [{"type": "image", "blob": sha256}, {"type": "text", "text": CAPTION}]}],
            "generation": {"max_tokens": ANSWER_TOKENS, "temperature": 0.0, "ignore_eos": True},
            "enable_thinking": False,
        }
        works.append(ScriptedWork(folder, Kind.VLM, "chat", request, priority=Priority.INBOX, watched=False, threads=threads))
    return works


class Stopwatch:
    """Seconds that calls of a method take, in whatever thread."""

    def __init__(self, owner: Any, method: str) -> None:
        self.seconds = 0.0
        self._call = getattr(owner, method)
        setattr(owner, method, self._timed)

    def _timed(self, *values: Any) -> Any:
        started = time.perf_counter()
        try:
            return self._call(*values)
        finally:
            self.seconds += time.perf_counter() - started


def tokens_per_second(engine: VlmEngine, works: list[ScriptedWork]) -> float:
    """Of all jobs, the first with the others waiting behind it."""
    works[0].waiting = works[1:]
    started = time.perf_counter()
    engine.run(works[0])
    seconds = time.perf_counter() - started
    if errors := [work.error for work in works if work.error is not None]:
        raise SystemExit(f"{len(errors)} jobs failed, the first: {errors[0]}")
    return sum(int(work.result.usage.completion_tokens) for work in works) / seconds


def bench(subject: Subject, pictures: int, size: tuple[int, int], parallel: str, rounds: int, threads: int) -> ImmediateReport:
    """Both ways in each round, the one that was last first in the next."""
    report = ImmediateReport(f"pictures encoded ahead: {subject.name}", machine(threads, rounds))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vlm = VlmSettings(
            model=str(subject.path),
            mmproj=str(subject.mmproj),
            threads=threads,
            parallel="auto" if parallel == "auto" else int(parallel),
        )
        engine = VlmEngine(Settings(home=folder, vlm=vlm))
        try:
            info = engine.load(lambda _: None)
            report.say(f"computed together: {info.parallel}; GPU: {'yes' if info.gpu else 'no'}")
            scheduler = engine._open_scheduler()
            if scheduler is None:
                raise SystemExit("Jobs are not computed together here: say --parallel 4.")
            assert engine._vision is not None
            watches = {
                "planned (read, prepared)": Stopwatch(engine, "plan_job"),
                "encoded": Stopwatch(engine._vision, "encode_chunk"),
                "put into the KV alone": Stopwatch(engine._vision, "decode_chunk"),
                "together": Stopwatch(scheduler.resources.context, "decode_embeddings"),
                "all decodes of tokens": Stopwatch(scheduler.resources.context, "decode_parts"),
            }
            warm = max(4, info.parallel // 4)
            figures: dict[bool, list[float]] = {False: [], True: []}
            number = 0
            for ahead in (False, True):
                scheduler.resources.encodes_ahead = ahead
                tokens_per_second(engine, captions(folder, number, warm, size, threads))
                number += warm
            for done in range(rounds):
                for ahead in (False, True) if done % 2 == 0 else (True, False):
                    scheduler.resources.encodes_ahead = ahead
                    before, cpu = {name: watch.seconds for name, watch in watches.items()}, time.process_time()
                    figures[ahead].append(tokens_per_second(engine, captions(folder, number, pictures, size, threads)))
                    number += pictures
                    way = "ahead" if ahead else "between the steps"
                    cpu = 1e3 * (time.process_time() - cpu) / pictures
                    parts = ((name, 1e3 * (one.seconds - before[name]) / pictures) for name, one in watches.items())
                    report.say(
                        f"{pictures} pictures of {size[0]} x {size[1]} encoded {way}: {figures[ahead][-1]:.1f} tokens/s; "
                        + "of each, ms: "
                        + ", ".join(f"{name} {ms:.1f}" for name, ms in parts)
                        + f"; CPU {cpu:.1f}"
                    )
            ratio = statistics.median(figures[True]) / statistics.median(figures[False])
            report.say(f"ahead / between the steps: {ratio:.2f}")
        finally:
            engine.close()
    return report


def main() -> int:
    parser = options(__doc__ or "", rounds=2)
    parser.add_argument("--model", choices=[name for name, one in SUBJECTS.items() if one.mmproj], default="tiny")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--parallel", default="auto", help="vlm.parallel")
    given = parser.parse_args()
    if given.model == "e4b-shape":
        e4b_shape.paths()
    width, height = (int(side) for side in given.size.split("x"))
    subject = SUBJECTS[given.model]
    return finish([bench(subject, given.pictures, (width, height), given.parallel, given.rounds, given.threads)], given.json)


if __name__ == "__main__":
    sys.exit(main())
