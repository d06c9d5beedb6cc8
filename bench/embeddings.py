"""Embeddings against llama-server, alternating in one run: latency, one call of many texts, many clients.

    BATCH_LLAMA_SERVER=/path/to/llama-server python bench/embeddings.py [--model minilm|wide|FILE] [--rounds N]
                                                                        [--threads N] [--full] [--json]

Two models: MiniLM (6 layers of 384), and a BERT of bge-base-zh's size (12 of 768), which the service embeds with by
default; no registry carries that one, so its weights are random (wide_bert.py). Both sides serve the same GGUF
with the same number of threads. llama-server runs with one slot and with its default number; the better of the two
counts. `--full` adds 10,000 texts, of the first model: as one call to each, and as inbox files for ours.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import llama_server
import wide_bert
from measure import Measure, Report, finish, machine, options
from peer import Client, Peer, ours
from words import sentence


def embed(client: Client, given: str | list[str]) -> None:
    client.post("/v1/embeddings", {"input": given, "model": "m"})


def single(peer: Peer, seed: int, count: int = 40) -> float:
    """Median milliseconds of one short text after another."""
    client = peer.client("embedding")
    times = []
    for i in range(count):
        begun = time.perf_counter()
        embed(client, sentence(seed * 1000 + i))
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1e3


def one_call(peer: Peer, seed: int, count: int = 64) -> float:
    """Texts a second of one call."""
    client = peer.client("embedding")
    begun = time.perf_counter()
    embed(client, [sentence(seed * 1000 + i) for i in range(count)])
    return count / (time.perf_counter() - begun)


def many_clients(peer: Peer, seed: int, clients: int = 32, calls: int = 10) -> float:
    """Texts a second of clients that each send one text after another."""
    ready = threading.Barrier(clients + 1)

    def send_calls(number: int) -> None:
        client = peer.connect("embedding")
        ready.wait()
        for i in range(calls):
            embed(client, sentence(seed * 1000 + number * calls + i))
        client.close()

    with ThreadPoolExecutor(clients) as pool:
        asked = [pool.submit(send_calls, n) for n in range(clients)]
        ready.wait()
        begun = time.perf_counter()
        for one in asked:
            one.result()
        return clients * calls / (time.perf_counter() - begun)


def ten_thousand(peer: Peer, seed: int) -> float:
    return one_call(peer, seed, 10_000)


def inbox(peer: Peer, _: int, count: int = 10_000) -> float:
    """Texts a second of files dropped into the inbox, from the first file to the last result."""
    assert peer.home is not None
    begun = time.perf_counter()
    for i in range(count):
        (peer.home / "inbox" / f"{i}.txt").write_text(sentence(i))
    end = time.monotonic() + 3600
    while len(list((peer.home / "outbox").glob("*.json"))) < count:
        if time.monotonic() > end:
            raise SystemExit("the inbox was not done within an hour")
        time.sleep(0.2)
    return count / (time.perf_counter() - begun)


def measures(model: Path) -> list[Measure]:
    """The three measures with the bars that a model is held to: a wide one computes more beside what a request costs."""
    is_wide = model == wide_bert.PATH
    cpu_info = Path("/proc/cpuinfo")
    has_avx512 = cpu_info.is_file() and "avx512f" in cpu_info.read_text()
    return [
        Measure("one short text", "ms", single, "less", bar=1.2 if is_wide else 1.3),
        Measure("one call of 64 texts", "texts/s", one_call, bar=1.1 if is_wide and has_avx512 else 1.0),
        Measure("32 clients x 10 calls", "texts/s", many_clients, bar=1.1 if is_wide and has_avx512 else 1.0),
    ]


FULL = [
    Measure("one call of 10,000 texts", "texts/s", ten_thousand, rounds=1),
    Measure("10,000 inbox files", "texts/s", inbox, rounds=1, alone=True),
]


def bench(model: Path, rounds: int, threads: int, only: str, *, full: bool) -> Report:
    binary = llama_server.binary()
    report = Report(f"Embeddings ({model.name})", machine(threads, rounds), only=only)
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(ours(threads, embedding=str(model)))]
        if binary:
            for name, slots in (("llama-server, one slot", 1), ("llama-server, default", 0)):
                peers.append(
                    stack.enter_context(
                        llama_server.llama(
                            binary, model, "--embeddings", name=name, kind="embedding", threads=threads, slots=slots
                        )
                    )
                )
        for peer in peers:
            embed(peer.client("embedding"), [sentence(i) for i in range(8)])
        report.take(measures(model), peers, rounds)
        if full:
            report.take(FULL, [peer for peer in peers if peer.name != "llama-server, default"], 1)
    return report


def main() -> int:
    parser = options(__doc__ or "", rounds=5)
    parser.add_argument("--model", help="only this one: minilm, wide, or a file")
    parser.add_argument("--full", action="store_true", help="add 10,000 texts, to the first model")
    given = parser.parse_args()
    if llama_server.binary() is None:
        print(f"Only ours is measured: {llama_server.MISSING}.", file=sys.stderr)
    known = {"minilm": wide_bert.MINILM, "wide": wide_bert.path()}
    chosen = [known.get(given.model, Path(given.model))] if given.model else list(known.values())
    models = [path for path in chosen if path is not None and path.is_file()]
    if not models:
        raise SystemExit("There is no model to measure: `batch models pull all-minilm-l6-v2`.")
    reports = (bench(path, given.rounds, given.threads, given.only, full=given.full and path == models[0]) for path in models)
    return finish(reports, given.json)


if __name__ == "__main__":
    sys.exit(main())
