"""Bulk work against llama-server's slots: batch lines with a common beginning, and captions of pictures.

    BATCH_LLAMA_SERVER=/path/to/llama-server python bench/bulk.py [--model tiny|gemma-270m|e4b-shape] [--lines N]
                                                                  [--pictures N] [--parallel 1,auto] [--slots 1,4,8,16]
                                                                  [--only picture] [--json]

Ours gets the lines as one batch and the pictures likewise, once with each `vlm.parallel` named. llama-server gets the same
requests from as many clients as it has slots, in each of the numbers of slots named. What is compared is tokens a second
over all of the work, ours with the last `vlm.parallel` named / theirs with its best number of slots. Beside a batch with
the last one named, an interactive request's first token and its speed are measured, and the same with nothing else to do.
`--only picture` measures just an interactive request beside one large picture, which needs no peer.
Everything is measured once, in turn, on a machine that does nothing else.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import e4b_shape
import llama_cpp
import llama_server
from chat import SUBJECTS, Subject, ask_short, picture
from measure import Report, finish, machine, options
from peer import Client, Peer, ours
from words import prose

SHARED_WORDS = 330
"""About 500 tokens."""
ANSWER_TOKENS = 48
CAPTION = "Describe this image."
DEADLINE_S = 3600.0
BAR_PEER, BAR_SINGLE, BAR_SINGLE_GPU = 0.95, 2.5, 5.0
MOST_ANSWERS = 5
"""Whose speed is measured, alone and beside bulk work: one of the smallest model takes a seventh of a second,"""
LONG_ANSWER_S = 2.0
"""and no further one is begun once those before took so long."""
BETWEEN_ANSWERS_S = 0.2
"""Bulk work goes on before each."""
BAR_DECODE = 0.9
"""An interactive answer's speed beside bulk work / alone."""
LARGE_PICTURE = (1200, 900)
PICTURE_PAUSE = 3.0
"""Times a request's own duration: so much of the time is the picture's."""
PICTURE_DEADLINE_S = 270.0
BESIDE_LINES = 400
"""Of the batch that interactive requests are measured beside: more than are done meanwhile."""


class ImmediateReport(Report):
    """Tells each sentence at once too, so that a run that is cut off has told what it knew."""

    def say(self, sentence: str, good: bool | None = None) -> None:
        super().say(sentence, good)
        print(f"{sentence}{'' if good is None else ' | met' if good else ' | MISSED'}", file=sys.stderr, flush=True)


def line_body(subject: Subject, shared: str, number: int) -> dict[str, Any]:
    """A request that begins as all others do."""
    question = f"Question {number}: {prose(number, 12)}"
    common = {"max_tokens": ANSWER_TOKENS, "temperature": 0, "ignore_eos": True}
    if not subject.chat:
        return {"prompt": f"{shared}\n{question}\n", **common}
    messages = [{"role": "system", "content": shared}, {"role": "user", "content": question}]
    return {"messages": messages, "chat_template_kwargs": {"enable_thinking": False}, **common}


def picture_body(number: int, size: tuple[int, int] = (320, 240)) -> dict[str, Any]:
    """A request for a caption, as the inbox makes it, but of a fixed length: both sides have the same to do."""
    parts = [
        {"type": "image_url", "image_url": {"url": picture(number, size)}},
        {"type": "text", "text": CAPTION},
    ]
    return {
        "messages": [{"role": "user", "content": parts}],
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "chat_template_kwargs": {"enable_thinking": False},
    }


def start_batch(peer: Peer, subject: Subject, bodies: Sequence[dict[str, Any]]) -> str:
    """The id of a batch with the bodies as its lines, which has begun."""
    lines = [
        {"custom_id": str(number), "method": "POST", "url": subject.route, "body": body} for number, body in enumerate(bodies)
    ]
    client = peer.client()
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    file = client.upload("/v1/files", {"purpose": "batch"}, "bench.jsonl", "application/jsonl", data)
    request = {"input_file_id": file["id"], "endpoint": subject.route, "completion_window": "24h"}
    return str(client.post("/v1/batches", request)["id"])


def wait_for(peer: Peer, batch_id: str, lines: int) -> dict[str, Any]:
    """The batch once so many of its lines are done, or it has ended."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        batch: dict[str, Any] = json.loads(peer.client().get(f"/v1/batches/{batch_id}"))
        if batch["request_counts"]["failed"] or batch["status"] in ("failed", "cancelled"):
            raise SystemExit(f"the batch is {batch['status']}: {batch['request_counts']}, {batch['errors']}")
        if batch["status"] == "completed" or batch["request_counts"]["completed"] >= lines:
            return batch
        time.sleep(0.05)
    raise SystemExit("the batch did not end")


def ours_batch(peer: Peer, subject: Subject, bodies: Sequence[dict[str, Any]]) -> float:
    """Answered tokens a second of the bodies as lines of one batch, from its beginning to its end."""
    started = time.perf_counter()
    batch_id = start_batch(peer, subject, bodies)
    batch = wait_for(peer, batch_id, len(bodies) + 1)
    return float(batch["usage"]["output_tokens"] / (time.perf_counter() - started))


def beside(report: Report, peer: Peer, subject: Subject, shared: str) -> None:
    """An interactive request's first token and its speed, with nothing else to do and while a batch is computed."""
    client = peer.client()
    props = json.loads(client.get("/props"))
    width, rates = int(props["parallel"]), dict(props["parallel_rates"])
    ask_short(client, subject, 99)
    idle, alone = statistics.median(ask_short(client, subject, n) for n in range(5)), median_answer_speed(client, subject, 1)
    batch_id = start_batch(peer, subject, [line_body(subject, shared, 1000 + number) for number in range(BESIDE_LINES)])
    wait_for(peer, batch_id, 1)
    first = statistics.median(ask_short(client, subject, 100 + n) for n in range(5))
    speed = median_answer_speed(client, subject, 1 + MOST_ANSWERS)
    batch = json.loads(client.get(f"/v1/batches/{batch_id}"))
    if batch["status"] == "completed":
        raise SystemExit("the batch ended before requests beside it were measured: make it longer")
    client.post(f"/v1/batches/{batch_id}/cancel", {})
    step = 1e3 * width / rates[str(width)] if str(width) in rates else 1e3 / alone
    bar = idle + 2 * step + width
    report.say(f"beside: parallel = {width}; tokens/s measured at load: {rates}")
    report.say(
        f"first token beside {width} sequences: {first:.1f} ms, idle {idle:.1f}, a step of all {step:.1f} "
        f"(at most idle + 2 steps + 1 ms a sequence = {bar:.1f})",
        first <= bar,
    )
    report.say(
        f"decode beside {width} sequences: {speed:.1f} tokens/s, alone {alone:.1f}: {speed / alone:.2f} (bar {BAR_DECODE})",
        speed >= BAR_DECODE * alone,
    )


def beside_picture(report: Report, peer: Peer, subject: Subject) -> None:
    """An interactive request's first token while a large picture is encoded, read and described."""
    client = peer.client()
    idle = statistics.median(ask_short(client, subject, 200 + n) for n in range(3))
    batch_id = start_batch(peer, subject, [picture_body(5000, LARGE_PICTURE)])
    waits: list[float] = []
    deadline = time.monotonic() + PICTURE_DEADLINE_S
    while json.loads(client.get(f"/v1/batches/{batch_id}"))["status"] not in ("completed", "failed", "cancelled"):
        if time.monotonic() > deadline:
            client.post(f"/v1/batches/{batch_id}/cancel", {})
            report.say(f"the picture was not described after {PICTURE_DEADLINE_S:.0f} s: what came until then counts")
            break
        waits.append(ask_short(client, subject, 300 + len(waits)))
        print(f"beside the picture, {len(waits)}: {waits[-1]:.0f} ms, idle {idle:.0f}", file=sys.stderr, flush=True)
        time.sleep(PICTURE_PAUSE * waits[-1] / 1e3)
    if not waits:
        raise SystemExit("the picture was described before requests beside it were measured: take a larger one")
    bar = 2 * idle + 1000
    width, height = LARGE_PICTURE
    report.say(
        f"first token beside a picture of {width} x {height}, {len(waits)} asked: median {statistics.median(waits):.0f} ms, "
        f"worst {max(waits):.0f}, idle {idle:.0f} (at most 2 x idle + 1 s = {bar:.0f})",
        max(waits) <= bar,
    )


def bench_picture(subject: Subject, parallel: str, threads: int) -> Report:
    """An interactive request beside one large picture, and nothing else."""
    report = ImmediateReport(f"beside a picture: {subject.name}", machine(threads, 1))
    models = {"vlm": str(subject.path)} | ({"vlm_mmproj": str(subject.mmproj)} if subject.mmproj else {})
    with ours(threads, vlm_parallel=parallel, **models) as peer:
        beside_picture(report, peer, subject)
    return report


def median_answer_speed(client: Client, subject: Subject, seed: int) -> float:
    """The median `answer_speed` of several answers, or that of one where it takes long enough not to hang on chance."""
    speeds: list[float] = []
    until = time.perf_counter() + LONG_ANSWER_S
    while not speeds or (len(speeds) < MOST_ANSWERS and time.perf_counter() < until):
        time.sleep(BETWEEN_ANSWERS_S)
        speeds.append(answer_speed(client, subject, seed + len(speeds)))
    return statistics.median(speeds)


def answer_speed(client: Client, subject: Subject, seed: int) -> float:
    """Tokens a second between the first and the last chunk of a stream."""
    times = [at for at, _ in client.stream(subject.route, subject.ask(prose(6000 + seed, 12), subject.answer_tokens))]
    return (subject.answer_tokens - 1) / (times[-1] - times[0])


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


def bench(subject: Subject, lines: int, pictures: int, parallels: Sequence[str], slots: Sequence[int], threads: int) -> Report:
    """Every configuration once."""
    report = ImmediateReport(f"bulk: {subject.name}", machine(threads, 1))
    print("; ".join(f"{name} {fact}" for name, fact in report.facts.items()), file=sys.stderr, flush=True)
    shared = prose(1, SHARED_WORDS)
    works: dict[str, tuple[str, list[dict[str, Any]]]] = {}
    if lines:
        works[f"{lines} lines"] = (subject.route, [line_body(subject, shared, number) for number in range(lines)])
    if subject.mmproj is not None and pictures:
        works[f"{pictures} captions"] = ("/v1/chat/completions", [picture_body(number) for number in range(pictures)])
    figures: dict[str, dict[str, float]] = {name: {} for name in works}

    def note(work: str, side: str, tokens: float) -> None:
        figures[work][side] = tokens
        report.say(f"{work}, {side}: {tokens:.1f} tokens/s")

    models = {"vlm": str(subject.path)} | ({"vlm_mmproj": str(subject.mmproj)} if subject.mmproj else {})
    for parallel in parallels:
        with ours(threads, vlm_parallel=parallel, **models) as peer:
            for name, (_, bodies) in works.items():
                note(name, _ours(parallel), ours_batch(peer, subject, bodies))
            if parallel == parallels[-1]:
                beside(report, peer, subject, shared)
                if subject.mmproj is not None:
                    beside_picture(report, peer, subject)
    server = llama_server.binary()
    for count in slots if server else ():
        extra = ["--mmproj", str(subject.mmproj)] if subject.mmproj else []
        extra += ["--jinja"] if subject.chat else []
        assert server is not None
        with llama_server.llama(server, subject.path, *extra, threads=threads, slots=count) as peer:
            for name, (route, bodies) in works.items():
                note(name, f"{llama_server.SOURCE.program}, {count} slots", theirs(peer, route, bodies, count))
    bar = BAR_SINGLE_GPU if llama_cpp.llama_supports_gpu_offload() else BAR_SINGLE
    for name, by in figures.items():
        best_ours = by.get(_ours(parallels[-1]) if parallels else "", 0.0)
        if single := by.get(_ours("1"), 0.0):
            report.say(f"{name}: {parallels[-1]} / 1 = {best_ours / single:.2f} (bar {bar})", best_ours >= bar * single)
        if best_ours and (best := max((v for side, v in by.items() if not side.startswith("ours")), default=0.0)):
            report.say(
                f"{name}: ours / llama-server's best = {best_ours / best:.2f} (bar {BAR_PEER})", best_ours >= BAR_PEER * best
            )
    return report


def _ours(parallel: str) -> str:
    return f"ours, parallel = {parallel}"


def main() -> int:
    parser = options(__doc__ or "", rounds=1)
    parser.add_argument("--model", choices=list(SUBJECTS), default="gemma-270m")
    parser.add_argument("--lines", type=int, default=200, help="0: none")
    parser.add_argument("--pictures", type=int, default=200, help="0: none")
    parser.add_argument("--parallel", default="1,auto", help="our values of vlm.parallel; the last one is compared")
    parser.add_argument("--slots", default="1,4,8,16", help="llama-server's numbers of slots")
    given = parser.parse_args()
    subject = SUBJECTS[given.model]
    if given.model == "e4b-shape":
        e4b_shape.paths()
    parallels = [value for value in given.parallel.split(",") if value]
    if given.only == "picture":
        return finish([bench_picture(subject, parallels[-1], given.threads)], given.json)
    slots = [int(count) for count in given.slots.split(",") if count]
    return finish([bench(subject, given.lines, given.pictures, parallels, slots, given.threads)], given.json)


if __name__ == "__main__":
    sys.exit(main())
