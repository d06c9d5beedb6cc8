"""This checkout against another one, alternating in one run: what the same requests cost in both.

    python bench/checkouts.py /path/to/other/checkout [--model tiny|gemma-270m|e4b-shape] [--rounds N] [--threads N] [--json]

The engines without weights answer, so what is measured is the way of a request: HTTP, queue, worker and back. With `--model`
the chat model of that name answers what bench/chat.py asks. Both run with this Python and its packages. Ours may take 1.05
of the other's time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chat import SUBJECTS, ChatMeasures, Subject
from measure import Measure, Report, finish, machine, options
from peer import Peer, ours

BAR = 1.05
CALLS = 20
"""Of each side in turn; their median is one round's figure."""
WORDS = " ".join(["word"] * 300)


def median_ms(kind: str, path: str, body: dict[str, Any], *, stream: bool = False) -> Callable[[Peer, int], float]:
    """What measures one request: the median of some calls, in milliseconds, to the last byte of the answer."""

    def run(peer: Peer, _: int) -> float:
        client, times = peer.client(kind), []
        for _ in range(CALLS):
            client.refresh()
            begun = time.perf_counter()
            if stream:
                for _ in client.stream(path, body):
                    pass
            else:
                client.post(path, body)
            times.append(time.perf_counter() - begun)
        return statistics.median(times) * 1e3

    return run


def chat(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


CHAT, EMBED = ("vlm", "/v1/chat/completions"), ("embedding", "/v1/embeddings")
MEASURES = [
    Measure(name, "ms", run, "less", bar=BAR)
    for name, run in (
        ("one text embedded", median_ms(*EMBED, {"input": "hello", "model": "x"})),
        ("64 texts in a call", median_ms(*EMBED, {"input": ["hello there"] * 64, "model": "x"})),
        ("a chat of two words", median_ms(*CHAT, chat("hello there"))),
        ("a chat of 300 words", median_ms(*CHAT, chat(WORDS))),
        ("a chat of 300 words, streamed", median_ms(*CHAT, chat(WORDS), stream=True)),
    )
]


def bench(other: Path, subject: Subject | None, rounds: int, threads: int, only: str) -> Report:
    models, measures = {}, MEASURES
    if subject is not None:
        models = {"vlm": str(subject.path), "vlm_mmproj": str(subject.mmproj or "")}
        measures = [dataclasses.replace(measure, bar=_bar(measure), slack=0.0) for measure in ChatMeasures(subject).all()]
    title = "This checkout against " + " with ".join(filter(None, (other.name, subject and subject.name)))
    report = Report(title, machine(threads, rounds), only=only)
    with contextlib.ExitStack() as stack:
        peers = [
            stack.enter_context(ours(threads, **models)),
            stack.enter_context(ours(threads, root=other, name="the other", **models)),
        ]
        for measure in measures:
            for peer in peers:
                measure.run(peer, 0)
        report.take(measures, peers, rounds)
    return report


def _bar(measure: Measure) -> float:
    return BAR if measure.better == "less" else 1 / BAR


def main() -> int:
    parser = options(__doc__ or "", rounds=15)
    parser.add_argument("checkout", type=Path, help="the other checkout's folder")
    parser.add_argument("--model", choices=SUBJECTS, help="bench/chat.py's measures with this model")
    given = parser.parse_args()
    subject = SUBJECTS[given.model] if given.model else None
    return finish([bench(given.checkout.resolve(), subject, given.rounds, given.threads, given.only)], given.json)


if __name__ == "__main__":
    sys.exit(main())
