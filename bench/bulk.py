"""Bulk work against llama-server's slots: batch lines with a common beginning, and captions of pictures.

    BATCH_LLAMA_SERVER=/path/to/llama-server python bench/bulk.py [--model tiny|gemma-270m|e4b-shape] [--lines N]
                                                                  [--pictures N] [--slots 1,4,8,16] [--json]

Ours gets the lines as one batch and the pictures in its inbox, once with `vlm.parallel = 1` and once with "auto".
llama-server gets the same requests from as many clients as it has slots, in each of the numbers of slots named. What is
compared is tokens a second over all of the work, ours with "auto" / theirs with its best number of slots. Everything is
measured once, in turn, on a machine that does nothing else.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import e4b_shape
import llama_server
from chat import SUBJECTS, Subject, picture
from measure import Report, finish, machine, options
from peer import Peer, ours
from words import prose

SHARED_WORDS = 330
"""About 500 tokens."""
ANSWER_TOKENS = 48
CAPTION = "Describe this image."
DEADLINE_S = 3600.0
BAR_PEER, BAR_SINGLE = 0.95, 2.5


def line_body(subject: Subject, shared: str, number: int) -> dict[str, Any]:
    """A request that begins as all others do."""
    question = f"Question {number}: {prose(number, 12)}"
    common = {"max_tokens": ANSWER_TOKENS, "temperature": 0, "ignore_eos": True}
    if not subject.chat:
        return {"prompt": f"{shared}\n{question}\n", **common}
    messages = [{"role": "system", "content": shared}, {"role": "user", "content": question}]
    return {"messages": messages, "chat_template_kwargs": {"enable_thinking": False}, **common}


def picture_body(number: int) -> dict[str, Any]:
    """A request for a caption, as the inbox makes it."""
    parts = [
        {"type": "image_url", "image_url": {"url": picture(number)}},
        {"type": "text", "text": CAPTION},
    ]
    return {
        "messages": [{"role": "user", "content": parts}],
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "chat_template_kwargs": {"enable_thinking": False},
    }


def ours_batch(peer: Peer, subject: Subject, bodies: Sequence[dict[str, Any]]) -> float:
    """Answered tokens a second of the bodies as lines of one batch, from its creation to its end."""
    lines = [
        {"custom_id": str(number), "method": "POST", "url": subject.route, "body": body} for number, body in enumerate(bodies)
    ]
    client = peer.client()
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    file = client.upload("/v1/files", {"purpose": "batch"}, "bench.jsonl", "application/jsonl", data)
    started = time.perf_counter()
    batch = client.post("/v1/batches", {"input_file_id": file["id"], "endpoint": subject.route, "completion_window": "24h"})
    while batch["status"] not in ("completed", "failed", "cancelled"):
        if time.perf_counter() - started > DEADLINE_S:
            raise SystemExit("the batch did not end")
        time.sleep(0.1)
        batch = json.loads(client.get(f"/v1/batches/{batch['id']}"))
    seconds = time.perf_counter() - started
    if batch["status"] != "completed" or batch["request_counts"]["failed"]:
        raise SystemExit(f"the batch ended as {batch['status']}: {batch['request_counts']}, {batch['errors']}")
    return float(batch["usage"]["output_tokens"] / seconds)


def theirs(peer: Peer, route: str, bodies: Sequence[dict[str, Any]], clients: int) -> float:
    """Answered tokens a second of the bodies, sent by as many clients as there are slots."""

    def send(mine: Sequence[dict[str, Any]]) -> int:
        client = peer.connect()
        tokens = sum(int(client.post(route, body)["usage"]["completion_tokens"]) for body in mine)
        client.close()
        return tokens

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        tokens = sum(pool.map(send, [bodies[at::clients] for at in range(clients)]))
    return tokens / (time.perf_counter() - started)


def bench(subject: Subject, lines: int, pictures: int, slots: Sequence[int], threads: int) -> Report:
    """Every configuration once."""
    report = Report(f"bulk: {subject.name}", machine(threads, 1))
    shared = prose(1, SHARED_WORDS)
    works: dict[str, tuple[str, list[dict[str, Any]]]] = {
        f"{lines} lines": (subject.route, [line_body(subject, shared, number) for number in range(lines)])
    }
    if subject.mmproj is not None and pictures:
        works[f"{pictures} captions"] = ("/v1/chat/completions", [picture_body(number) for number in range(pictures)])
    figures: dict[str, dict[str, float]] = {name: {} for name in works}
    models = {"vlm": str(subject.path)} | ({"vlm_mmproj": str(subject.mmproj)} if subject.mmproj else {})
    for parallel in ("1", "auto"):
        with ours(threads, vlm_parallel=parallel, **models) as peer:
            for name, (_, bodies) in works.items():
                figures[name][f"ours, parallel = {parallel}"] = ours_batch(peer, subject, bodies)
    server = llama_server.binary()
    for count in slots if server else ():
        extra = ["--mmproj", str(subject.mmproj)] if subject.mmproj else []
        extra += ["--jinja"] if subject.chat else []
        assert server is not None
        with llama_server.llama(server, subject.path, *extra, threads=threads, slots=count) as peer:
            for name, (route, bodies) in works.items():
                figures[name][f"llama-server, {count} slots"] = theirs(peer, route, bodies, count)
    for name, by in figures.items():
        for side, tokens in by.items():
            report.say(f"{name}, {side}: {tokens:.1f} tokens/s")
        auto, single = by["ours, parallel = auto"], by["ours, parallel = 1"]
        report.say(f"{name}: auto / 1 = {auto / single:.2f} (bar {BAR_SINGLE})", auto >= BAR_SINGLE * single)
        if best := max((tokens for side, tokens in by.items() if side.startswith("llama")), default=0.0):
            report.say(f"{name}: ours / llama-server's best = {auto / best:.2f} (bar {BAR_PEER})", auto >= BAR_PEER * best)
    return report


def main() -> int:
    parser = options(__doc__ or "", rounds=1)
    parser.add_argument("--model", choices=list(SUBJECTS), default="gemma-270m")
    parser.add_argument("--lines", type=int, default=200)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--slots", default="1,4,8,16", help="llama-server's numbers of slots")
    given = parser.parse_args()
    subject = SUBJECTS[given.model]
    if given.model == "e4b-shape":
        e4b_shape.paths()
    slots = [int(count) for count in given.slots.split(",") if count]
    return finish([bench(subject, given.lines, given.pictures, slots, given.threads)], given.json)


if __name__ == "__main__":
    sys.exit(main())
