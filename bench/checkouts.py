"""This checkout against another one, alternating in one run: what the same requests cost in both.

    python bench/checkouts.py /path/to/other/checkout [--rounds N] [--threads N] [--json]

The engines without weights answer, so what is measured is the way of a request: HTTP, queue, worker and back. Both run with
this Python and its packages. Ours may take 1.05 of the other's time.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def bench(other: Path, rounds: int, threads: int, only: str) -> Report:
    report = Report(f"This checkout against {other.name}", machine(threads, rounds), only=only)
    with contextlib.ExitStack() as stack:
        peers = [
            stack.enter_context(ours(threads)),
            stack.enter_context(ours(threads, root=other, name="the other")),
        ]
        for measure in MEASURES:
            for peer in peers:
                measure.run(peer, 0)
        report.take(MEASURES, peers, rounds)
    return report


def main() -> int:
    parser = options(__doc__ or "", rounds=15)
    parser.add_argument("checkout", type=Path, help="the other checkout's folder")
    given = parser.parse_args()
    return finish([bench(given.checkout.resolve(), given.rounds, given.threads, given.only)], given.json)


if __name__ == "__main__":
    sys.exit(main())
