"""Chat against llama-server, alternating in one run: speed, time to the first token, and who waits for whom.

    BATCH_LLAMA_SERVER=/path/to/llama-server python bench/chat.py [--model tiny|gemma-270m] [--rounds N] [--threads N]
                                                                  [--json]

Both serve the same GGUF with one slot and the same number of threads; llama-server has its defaults otherwise. The tiny
Gemma 4 is asked through /v1/chat/completions; Gemma 3 270M is a base model, so it is asked through /v1/completions.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import e4b_shape
import llama_server
import msgspec
from budget import cold_budget
from measure import Measure, Report, finish, machine, options
from peer import ROOT, Client, Peer, ours
from PIL import Image, ImageDraw
from words import WORDS, prose

from batch.payloads.job_payload import PAYLOAD_TYPES
from batch.queue.channel import Waker
from batch.queue.jobs import Draft, Kind, Origin, Priority, State
from batch.queue.open_store import open_store
from batch.settings import Settings, default_models_dir

TINY = ROOT / "batch" / "data" / "tiny-gemma4v"
SCHEMA = {
    "type": "array",
    "minItems": 20,
    "items": {
        "type": "object",
        "required": ["id", "kind", "weight", "found", "note"],
        "additionalProperties": False,
        "properties": {
            "id": {"type": "integer"},
            "kind": {"enum": ["tool", "animal", "mineral", "plant"]},
            "weight": {"type": "number"},
            "found": {"type": "boolean"},
            "note": {"type": "string", "maxLength": 24},
        },
    },
}
"""Rows of a table: what structured output is asked for most."""


QUESTION_TOKENS = 32
"""At most so many tokens a question behind a shared beginning has, template included."""

COLD = "first token, cold"


@dataclass(frozen=True)
class Subject:
    """A model, how it is asked, and how much of everything is enough to see its speed."""

    name: str
    path: Path
    mmproj: Path | None
    chat: bool
    prompt_words: int
    answer_tokens: int
    bulk_tokens: int = 2000
    shared_words: int = 1500
    """Of a beginning that many requests share."""

    @property
    def route(self) -> str:
        return "/v1/chat/completions" if self.chat else "/v1/completions"

    def ask(self, text: str, tokens: int, **more: Any) -> dict[str, Any]:
        content: dict[str, Any] = {"prompt": text}
        if self.chat:
            # Without thinking, so that the first tokens are text and no markers.
            content = {
                "messages": [{"role": "user", "content": text}],
                "chat_template_kwargs": {"enable_thinking": False},
            }
        return {**content, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, **more}

    def bulk(self, text: str) -> tuple[str, dict[str, Any]]:
        """Task and request of the same as a job that nobody waits for."""
        asked = self.ask(text, self.bulk_tokens)
        generation = {k: asked.pop(k) for k in ("max_tokens", "temperature", "ignore_eos")}
        return ("chat" if self.chat else "completion"), {**asked, "generation": generation}


SUBJECTS = {
    "tiny": Subject("tiny Gemma 4", TINY / "tiny-gemma4v-text-f16.gguf", TINY / "tiny-gemma4v-mmproj-f16.gguf", True, 900, 512),
    "e4b-shape": Subject("E4B's shape", e4b_shape.TEXT, e4b_shape.PROJECTOR, True, 900, 128, 500),
    "gemma-270m": Subject("Gemma 3 270M", default_models_dir() / "gemma-3-270m-q4_k_m.gguf", None, False, 768, 96),
}


def words_of(chunk: Mapping[str, Any]) -> str:
    choices = chunk.get("choices") or [{}]
    delta = choices[0].get("delta") or choices[0]
    return str(delta.get("content") or delta.get("reasoning_content") or delta.get("text") or "")


def first_token(client: Client, route: str, body: Mapping[str, Any]) -> float:
    """Milliseconds from sending until the first chunk with text; reads the answer to its end."""
    client.refresh()
    begun, first = time.perf_counter(), 0.0
    for at, data in client.stream(route, body):
        if not first and words_of(json.loads(data)):
            first = at
    if not first:
        raise SystemExit("an answer had no text")
    return (first - begun) * 1e3


EIGHT_CLIENTS_ROUNDS = 3


class ChatMeasures:
    """What is measured of one subject. Every method is a Measure's `run`."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def all(self) -> list[Measure]:
        """Every measure, with what it is held to beside llama-server."""
        measures = [
            Measure("prompt", "tokens/s", self.prompt, bar=0.97),
            Measure("decode, streamed", "tokens/s", self.streamed, bar=0.97),
            Measure("decode, one answer", "tokens/s", self.whole, bar=0.97),
            Measure(COLD, "ms", self.cold, "less", bar=1.0),
            Measure("first token, cached prefix", "ms", self.cached, "less", bar=1.2, slack=3.0),
            Measure("first token behind a stranger", "ms", self.behind_a_stranger, "less", bar=1.2, slack=3.0),
            Measure("8 clients at once", "tokens/s", self.eight, rounds=EIGHT_CLIENTS_ROUNDS),
            Measure("decode within a JSON Schema", "tokens/s", self.constrained, bar=1.5),
        ]
        if self.subject.mmproj:
            measures.append(Measure("first token, second turn on an image", "ms", self.second_turn, "less"))
        return measures

    def prompt(self, peer: Peer, seed: int) -> float:
        """Prompt tokens a second, by the caller's clock, of a prompt that nothing is cached of."""
        body = self.subject.ask(prose(seed, self.subject.prompt_words), 1)
        begun = time.perf_counter()
        answer = peer.client().post(self.subject.route, body)
        seconds = time.perf_counter() - begun
        return float(answer["timings"]["prompt_n"] / seconds)

    def streamed(self, peer: Peer, seed: int) -> float:
        """Tokens a second between the first and the last chunk of a stream."""
        times = []
        tokens = self.subject.answer_tokens
        for at, data in peer.client().stream(self.subject.route, self.subject.ask(prose(seed, 12), tokens)):
            times.append(at)
            last = data
        count = json.loads(last)["timings"]["predicted_n"]
        if count != tokens:
            raise SystemExit(f"{peer.name} ended after {count} tokens instead of {tokens}")
        # The first chunk is the role, or the first token itself; either comes with the first token.
        return float((count - 1) / (times[-1] - times[0]))

    def whole(self, peer: Peer, seed: int) -> float:
        """Tokens a second of one answer that is not streamed, everything included."""
        begun = time.perf_counter()
        answer = peer.client().post(self.subject.route, self.subject.ask(prose(seed, 12), self.subject.answer_tokens))
        return float(answer["usage"]["completion_tokens"] / (time.perf_counter() - begun))

    def cold(self, peer: Peer, seed: int) -> float:
        return first_token(peer.client(), self.subject.route, self.subject.ask(prose(seed, 100), 4))

    def cached(self, peer: Peer, seed: int) -> float:
        """A second request that begins as the first did: all but its last words are in the cache."""
        before = prose(seed, 300)
        peer.client().post(self.subject.route, self.subject.ask(before, 1))
        times = [
            first_token(peer.client(), self.subject.route, self.subject.ask(f"{before} and {WORDS[i]}", 4)) for i in range(5)
        ]
        return statistics.median(times)

    def behind_a_stranger(self, peer: Peer, seed: int) -> float:
        """First token of a new question behind a long shared beginning, after somebody else's short request."""
        client, before = peer.client(), prose(seed, self.subject.shared_words)
        first = client.post(self.subject.route, self.subject.ask(f"{before}\nWhat is the first word?", 1))
        shared = first["usage"]["prompt_tokens"] - QUESTION_TOKENS
        client.post(self.subject.route, self.subject.ask(prose(seed + 70_000, 10), 1))
        taken = first_token(client, self.subject.route, self.subject.ask(f"{before}\nWhat is the last word?", 2))
        client.post(self.subject.route, self.subject.ask(prose(seed + 80_000, 10), 1))
        last = client.post(self.subject.route, self.subject.ask(f"{before}\nHow many are there?", 1))
        peer.notes.setdefault("cached share", []).append(last["timings"]["cache_n"] / shared)
        return taken

    def eight(self, peer: Peer, seed: int, callers: int = 8) -> float:
        """Tokens a second of eight callers that each ask at once, and then once more."""
        tokens = self.subject.answer_tokens // 4
        ready = threading.Barrier(callers + 1)

        def caller(number: int) -> int:
            client, done = peer.connect(), 0
            ready.wait()
            for turn in range(2):
                body = self.subject.ask(prose(seed * 100 + number * 2 + turn, 24), tokens)
                done += int(client.post(self.subject.route, body)["usage"]["completion_tokens"])
            client.close()
            return done

        with ThreadPoolExecutor(callers) as pool:
            asked = [pool.submit(caller, n) for n in range(callers)]
            ready.wait()
            begun = time.perf_counter()
            return sum(one.result() for one in asked) / (time.perf_counter() - begun)

    def constrained(self, peer: Peer, seed: int) -> float:
        """Tokens a second of an answer that a JSON Schema binds, by the caller's clock."""
        tokens = self.subject.answer_tokens // 2
        body = self.subject.ask(f"A {WORDS[seed % len(WORDS)]} as JSON:\n", tokens)
        del body["ignore_eos"]
        # Both take the schema under this name, on both routes.
        begun = time.perf_counter()
        answer = peer.client().post(self.subject.route, {**body, "json_schema": SCHEMA})
        seconds = time.perf_counter() - begun
        return float(answer["usage"]["completion_tokens"] / seconds)

    def second_turn(self, peer: Peer, seed: int) -> float:
        """First token of a second question about the same picture."""
        turns = [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": picture(seed)}},
                    {"type": "text", "text": "Describe this image."},
                ],
            }
        ]
        asked = {"max_tokens": 16, "temperature": 0, "chat_template_kwargs": {"enable_thinking": False}}
        first = peer.client().post(self.subject.route, {"messages": turns, **asked})
        encodes = encoded(peer)
        turns += [
            {"role": "assistant", "content": first["choices"][0]["message"]["content"]},
            {"role": "user", "content": "What colour is it?"},
        ]
        taken = first_token(peer.client(), self.subject.route, {"messages": turns, **asked})
        if encodes is not None:
            peer.notes["encoded again"] = peer.notes.get("encoded again", 0) + encoded(peer) - encodes
        return taken


def picture(seed: int, size: tuple[int, int] = (320, 240)) -> str:
    """A picture of a shape that no other seed gives, as a data URL."""
    draw = random.Random(seed)
    image = Image.new("RGB", size, "white")
    x, y = draw.randint(20, 120), draw.randint(20, 80)
    ImageDraw.Draw(image).ellipse((x, y, x + 120, y + 120), fill=(draw.randint(200, 255), 10, 10))
    written = io.BytesIO()
    image.save(written, "PNG")
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()


def encoded(peer: Peer) -> int | None:
    """How many pictures ours has encoded so far."""
    for line in peer.client().get("/metrics").splitlines() if peer.home else ():
        if "image_encodes" in line and not line.startswith("#"):
            return int(float(line.split()[-1]))
    return None


@contextlib.contextmanager
def bulk_job(peer: Peer, subject: Subject) -> Iterator[None]:
    """A long generation that is under way: a job that nobody waits for with ours, a request with theirs."""
    if peer.home is not None:
        settings = Settings.load(peer.home)
        store, waker = open_store(settings.database_address), Waker(settings.state_dir)
        task, request = subject.bulk(prose(7, 12))
        draft = Draft(msgspec.convert(request, PAYLOAD_TYPES[task]), Origin.BATCH, Priority.BATCH)
        with store.transaction(durable=True) as transaction:
            transaction.submit(draft)
        waker.wake(Kind.VLM)
        while (job := store.job(draft.id)) is not None and job.state is State.QUEUED:
            time.sleep(0.02)
        yield
        if (job := store.job(draft.id)) is not None and job.state.ended:
            raise SystemExit("the bulk job ended before it could be overtaken: make it longer")
        store.cancel(draft.id)
        waker.wake(Kind.VLM)
        waker.close()
        store.close()
        return
    under_way = threading.Event()

    def generate() -> None:
        for _ in peer.connect().stream(subject.route, subject.ask(prose(7, 12), subject.bulk_tokens)):
            under_way.set()

    thread = threading.Thread(target=generate)
    thread.start()
    under_way.wait()
    yield
    thread.join()


OVERTAKING = "first token beside a long generation"


def overtaking(report: Report, peers: list[Peer], subject: Subject) -> None:
    """The first token of an interactive request, with nothing else to do and while a long generation runs."""
    for peer in peers:
        client, mine = peer.client(), peer.home is not None
        idle = statistics.median(ask_short(client, subject, n) for n in range(5))
        begun = time.perf_counter()
        steps = 32
        client.post(subject.route, subject.ask(prose(3, 12), steps))
        step = (time.perf_counter() - begun) * 1e3 / steps
        with bulk_job(peer, subject):
            waits = [ask_short(client, subject, 100 + n) for n in range(5 if mine else 1)]
        wait = statistics.median(waits)
        said = (
            f"{OVERTAKING} of {subject.bulk_tokens} tokens, {peer.name}: {wait:.1f} ms, idle {idle:.1f} ms, "
            f"a step {step:.2f} ms"
        )
        report.say(said + (" (at most idle + 2 steps)" if mine else ""), wait <= idle + 2 * step if mine else None)


def ask_short(client: Client, subject: Subject, seed: int) -> float:
    return first_token(client, subject.route, subject.ask(prose(5000 + seed, 24), 2))


def bench(subject: Subject, rounds: int, threads: int, only: str) -> Report:
    report = Report(f"{subject.name} ({subject.path.name})", machine(threads, rounds), only=only)
    binary = llama_server.binary()
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(ours(threads, vlm=str(subject.path), vlm_mmproj=str(subject.mmproj or "")))]
        if binary:
            more: list[str] = []
            if subject.chat:
                template = json.loads(peers[0].client().get("/props"))["chat_template"]
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                more = llama_server.gemma4_template(template, folder)
            if subject.mmproj:
                more += ["--mmproj", str(subject.mmproj)]
            peers.append(stack.enter_context(llama_server.llama(binary, subject.path, *more, threads=threads)))
        for peer in peers:
            peer.client().post(subject.route, subject.ask("warm up", 8))
        measures = ChatMeasures(subject).all()
        report.take(measures, peers, rounds)
        if shares := peers[0].notes.get("cached share"):
            share = min(shares)
            report.say(f"of a long beginning ours has cached behind a stranger: {share:.1%} (at least 95 %)", share >= 0.95)
        if "encoded again" in peers[0].notes:
            again = peers[0].notes["encoded again"]
            report.say(f"pictures that ours encoded again for a second turn: {again}", again == 0)
        if only in COLD:
            for peer in peers:
                budget = cold_budget(peer, subject.route, lambda n: subject.ask(prose(40_000 + n, 100), 4), max(3, rounds))
                steps = " + ".join(f"{name} {ms:.1f}" for name, ms in budget.items() if name != "all")
                report.say(f"{COLD}, {peer.name}: {budget['all']:.1f} ms = {steps} (medians of each step)")
        if only in OVERTAKING:
            overtaking(report, peers, subject)
    return report


def main() -> int:
    parser = options(__doc__ or "", rounds=5)
    parser.add_argument("--model", choices=SUBJECTS, help="only this one")
    given = parser.parse_args()
    if llama_server.binary() is None:
        print(f"Only ours is measured: {llama_server.MISSING}.", file=sys.stderr)
    chosen = [given.model] if given.model else [name for name in SUBJECTS if name != "e4b-shape"]
    if given.model == "e4b-shape":
        e4b_shape.paths()
    absent = [name for name in chosen if not SUBJECTS[name].path.is_file()]
    for name in absent:
        print(f"{name} is left out: {SUBJECTS[name].path} is not there.", file=sys.stderr)
    reports = (bench(SUBJECTS[name], given.rounds, given.threads, given.only) for name in chosen if name not in absent)
    return finish(reports, given.json)


if __name__ == "__main__":
    sys.exit(main())
