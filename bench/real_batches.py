"""A batch against the same requests sent straight to the engine, with real models: work a second, and CPU time.

    BATCH_LLAMA_SERVER=/path/to/llama-server python bench/real_batches.py [--model gemma-270m|tiny] [--lines N]
                                                                          [--texts N] [--only chat|embeddings] [--json]

Three ways to have the same lines answered: as one batch; sent to our own port, each answered before the next is sent; sent to
llama-server, which has the same file and threads and as many slots as ours computes sequences together, by as many clients.
Chat lines are counted in tokens, lines of embeddings in texts. CPU time is that of all of a server's processes while it works.
The bar is 0.95 of either of the other ways. Each is measured once, in turn, and told at once.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import llama_server
import wide_bert
from bulk import DEADLINE_S
from chat import SUBJECTS, Subject
from measure import Report, finish, machine, options
from peer import Client, Peer, ours
from words import prose, sentence

BAR = 0.95
PROMPT_WORDS = 60
ANSWER_TOKENS = 32
EMBEDDINGS = "/v1/embeddings"
EMBEDDING_CLIENTS = 4
POLL_S = 0.2
"""Between two looks at a batch, which cost CPU time too."""

Body = dict[str, Any]


def chat_bodies(subject: Subject, lines: int) -> list[Body]:
    """Requests that have nothing in common."""
    return [subject.ask(prose(number, PROMPT_WORDS), ANSWER_TOKENS) for number in range(lines)]


def embedding_bodies(lines: int, texts: int) -> list[Body]:
    """Requests of so many short texts each."""
    return [{"model": "m", "input": [sentence(number * texts + at) for at in range(texts)]} for number in range(1, lines + 1)]


class Way:
    """A server that answers bodies."""

    def __init__(self, peer: Peer, kind: str, route: str) -> None:
        self.peer, self.kind, self.route = peer, kind, route

    def as_batch(self, bodies: Sequence[Body]) -> None:
        """As the lines of one batch, from its upload to its end."""
        client = self.peer.client(self.kind)
        lines = [
            {"custom_id": str(number), "method": "POST", "url": self.route, "body": body} for number, body in enumerate(bodies)
        ]
        data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        file = client.upload("/v1/files", {"purpose": "batch"}, "bench.jsonl", "application/jsonl", data)
        created = client.post("/v1/batches", {"input_file_id": file["id"], "endpoint": self.route, "completion_window": "24h"})
        deadline = time.monotonic() + DEADLINE_S
        while (batch := json.loads(client.get(f"/v1/batches/{created['id']}")))["status"] != "completed":
            if batch["status"] in ("failed", "cancelled", "expired") or time.monotonic() > deadline:
                raise SystemExit(f"the batch is {batch['status']}: {batch['errors']}")
            time.sleep(POLL_S)
        if batch["request_counts"]["completed"] != len(bodies):
            raise SystemExit(f"not every line was answered: {batch['request_counts']}")

    def straight(self, bodies: Sequence[Body], clients: int) -> None:
        """By so many clients, each of which sends one after another."""

        def send(mine: Sequence[Body]) -> None:
            client: Client = self.peer.connect(self.kind)
            for body in mine:
                client.post(self.route, body)
            client.close()

        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(send, [bodies[at::clients] for at in range(clients)]))


def bench(name: str, bodies: Sequence[Body], kind: str, route: str, work: int, models: dict[str, str], threads: int) -> Report:
    """One kind of lines in all three ways. `work`: how much all bodies are."""
    report = Report(f"batches of a real model: {name}", machine(threads, 1))
    rates: dict[str, float] = {}

    def take(way: str, peer: Peer, run: Callable[[], None]) -> None:
        before, started = peer.cpu() or 0.0, time.perf_counter()
        run()
        seconds, cpu = time.perf_counter() - started, (peer.cpu() or 0.0) - before
        rates[way] = work / seconds
        told = f"{name}, {way}: {rates[way]:.1f}/s in {seconds:.1f} s, CPU {cpu:.1f} s ({cpu / work * 1e3:.1f} ms each)"
        report.say(told)
        print(told, file=sys.stderr, flush=True)

    with ours(threads, **models) as peer:
        way = Way(peer, kind, route)
        way.straight(bodies[:2], 1)  # the model is warm
        take("as a batch", peer, lambda: way.as_batch(bodies))
        take("to our port, one after another", peer, lambda: way.straight(bodies, 1))
        width = int(json.loads(peer.client().get("/props"))["parallel"]) if kind == "vlm" else EMBEDDING_CLIENTS
    if server := llama_server.binary():
        extra = ["--embeddings"] if kind == "embedding" else []
        with llama_server.llama(server, Path(models[kind]), *extra, kind=kind, threads=threads, slots=width) as peer:
            way = Way(peer, kind, route)
            way.straight(bodies[:2], 1)
            take(f"to llama-server, {width} clients", peer, lambda: way.straight(bodies, width))
    for other, rate in list(rates.items())[1:]:
        ratio = rates["as a batch"] / rate
        report.say(f"{name}: as a batch / {other} = {ratio:.2f} (bar {BAR})", ratio >= BAR)
        print(report.lines[-1][0], file=sys.stderr, flush=True)
    return report


def main() -> int:
    parser = options(__doc__ or "", rounds=1)
    parser.add_argument("--model", choices=["gemma-270m", "tiny"], default="gemma-270m")
    parser.add_argument("--lines", type=int, default=64, help="of chat")
    parser.add_argument("--texts", type=int, default=4096, help="to embed, in lines of 16")
    given = parser.parse_args()
    subject, reports = SUBJECTS[given.model], []
    if given.only in "chat":
        models = {"vlm": str(subject.path), "vlm_parallel": "auto"}
        bodies, tokens = chat_bodies(subject, given.lines), given.lines * ANSWER_TOKENS
        reports.append(bench(f"{subject.name}, tokens", bodies, "vlm", subject.route, tokens, models, given.threads))
    if given.only in "embeddings":
        models, texts = {"embedding": str(wide_bert.MINILM)}, 16
        bodies = embedding_bodies(given.texts // texts, texts)
        reports.append(
            bench("MiniLM, texts in lines of 16", bodies, "embedding", EMBEDDINGS, len(bodies) * texts, models, given.threads)
        )
    return finish(reports, given.json)


if __name__ == "__main__":
    sys.exit(main())
