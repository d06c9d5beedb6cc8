"""Where the time to a first token goes that nothing is cached for: each step of a request's way, once measured."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from peer import Peer

from batch.queue.open_store import open_store
from batch.settings import Settings


def cold_budget(peer: Peer, route: str, make_body: Callable[[int], dict[str, Any]], rounds: int) -> dict[str, float]:
    """Milliseconds of each step, medians of so many requests, "all" last; `make_body` makes another request for each number.

    Of ours the job's row tells when it was read and when its worker took it. Of any server its answer tells how long it
    computed the prompt; the rest is everything else.
    """
    taken: list[dict[str, float]] = [_ask(peer, route, make_body(number)) for number in range(rounds)]
    budget = {step: statistics.median(one[step] for one in taken) for step in taken[0]}
    if peer.home is not None:
        template = min(budget["the rest"], _template_ms(peer, make_body, rounds))
        budget = {
            "read and checked": budget["read and checked"],
            "row, message, wake-up, claim": budget["row, message, wake-up, claim"],
            "template and tokens": template,
            "prompt": budget["prompt"],
            "first token and its way out": budget["the rest"] - template,
            "all": budget["all"],
        }
    return budget


def _ask(peer: Peer, route: str, body: Mapping[str, Any]) -> dict[str, float]:
    client = peer.client()
    client.refresh()
    sent, begun = time.time(), time.perf_counter()
    first, last = 0.0, b""
    for at, data in client.stream(route, body):
        if not first and _has_text(json.loads(data)):
            first = at
        last = data
    all_ms, prompt = (first - begun) * 1e3, float(json.loads(last)["timings"]["prompt_ms"])
    if peer.home is None:
        return {"prompt": prompt, "the rest": all_ms - prompt, "all": all_ms}
    store = open_store(Settings.load(peer.home).database_address)
    try:
        ((created, started),) = store.read("select created_at, started_at from job order by created_at desc limit 1")
    finally:
        store.close()
    read, queued = (created - sent) * 1e3, (started - created) * 1e3
    return {
        "read and checked": read,
        "row, message, wake-up, claim": queued,
        "prompt": prompt,
        "the rest": all_ms - read - queued - prompt,
        "all": all_ms,
    }


def _has_text(chunk: Mapping[str, Any]) -> bool:
    choice = (chunk.get("choices") or [{}])[0]
    delta = choice.get("delta") or choice
    return any(delta.get(name) for name in ("content", "reasoning_content", "text"))


def _template_ms(peer: Peer, make_body: Callable[[int], dict[str, Any]], rounds: int) -> float:
    """What the template and the tokeniser take: questions to ours, less what a question about nothing takes."""
    client = peer.client()

    def taken(path: str, body: Mapping[str, Any]) -> tuple[float, Any]:
        begun = time.perf_counter()
        answer = client.post(path, body)
        return (time.perf_counter() - begun) * 1e3, answer

    times = []
    for number in range(rounds):
        body = make_body(1000 + number)
        nothing, _ = taken("/tokenize", {"content": ""})
        if "messages" in body:
            rendering, answer = taken("/apply-template", body)
            text = answer["prompt"]
        else:
            rendering, text = nothing, body["prompt"]
        reading, _ = taken("/tokenize", {"content": text, "parse_special": True})
        times.append(rendering + reading - 2 * nothing)
    return max(0.0, statistics.median(times))
