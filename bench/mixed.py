"""All three models busy at once: against the same work one after the other, and against three servers at once.

    BATCH_LLAMA_SERVER=… BATCH_WHISPER_SERVER=… python bench/mixed.py [--rounds N] [--threads N] [--no-peers] [--json]

A chat stream, embedding calls and a sound file. Every server has the same number of threads: by default as many as there
are cores, as each of them would choose on a machine of its own.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import chat
import llama_server
import speech
import whisper_server
from measure import Measure, Report, finish, machine, options
from peer import ROOT, Peer, ours
from words import prose

from batch.settings import default_models_dir

MODELS = default_models_dir()
EMBEDDING = MODELS / "all-MiniLM-L6-v2-f16.gguf"
SPEECH = MODELS / "ggml-base.bin"


class Work:
    """What each model has to do; about as long as one another on a quiet machine."""

    def __init__(self, subject: chat.Subject, sound: bytes, share: float) -> None:
        self.subject = subject
        self.sound = sound
        self.tokens = int(256 * share)
        self.calls = int(48 * share)

    def chat(self, peer: Peer, seed: int) -> None:
        body = self.subject.ask(prose(seed, 96), self.tokens)
        for _ in peer.connect("vlm").stream(self.subject.route, body):
            pass

    def embedding(self, peer: Peer, seed: int) -> None:
        client = peer.connect("embedding")
        for call in range(self.calls):
            texts = [prose(seed * 10_000 + call * 16 + i, 24) for i in range(16)]
            client.post("/v1/embeddings", {"input": texts, "model": "m"})

    def stt(self, peer: Peer, _: int) -> None:
        speech.transcribe(peer.connect("stt"), self.sound)

    @property
    def parts(self) -> dict[str, Callable[[Peer, int], None]]:
        return {"chat": self.chat, "embedding": self.embedding, "speech": self.stt}

    def alone(self, part: str) -> Callable[[Peer, int], float]:
        def run(peer: Peer, seed: int) -> float:
            begun = time.perf_counter()
            self.parts[part](peer, seed)
            return time.perf_counter() - begun

        return run

    def at_once(self, peer: Peer, seed: int) -> float:
        """Seconds until all three are done; notes what a short embedding call took meanwhile."""
        with ThreadPoolExecutor(3) as pool:
            begun = time.perf_counter()
            under_way = [pool.submit(part, peer, seed) for part in self.parts.values()]
            with asking(peer):
                for one in under_way:
                    one.result()
            return time.perf_counter() - begun


@contextlib.contextmanager
def asking(peer: Peer) -> Iterator[None]:
    """Ask short questions beside everything else, four a second."""
    over = threading.Event()
    waits: list[float] = peer.notes.setdefault("waits", [])

    def ask() -> None:
        client, seed = peer.connect("embedding"), 0
        while not over.wait(0.25):
            seed += 1
            begun = time.perf_counter()
            client.post("/v1/embeddings", {"input": prose(seed, 8), "model": "m"})
            waits.append((time.perf_counter() - begun) * 1e3)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def three_servers(subject: chat.Subject, threads: int) -> Iterator[Peer]:
    """llama-server twice and whisper-server, as one peer."""
    llama, whisper = llama_server.binary(), whisper_server.binary()
    assert llama and whisper
    with (
        llama_server.llama(llama, subject.path, threads=threads) as vlm,
        llama_server.llama(llama, EMBEDDING, "--embeddings", kind="embedding", threads=threads) as embedding,
        whisper_server.whisper(whisper, SPEECH, threads=threads) as stt,
    ):
        parts = (vlm, embedding, stt)
        yield Peer(
            "three servers",
            {kind: port for p in parts for kind, port in p.ports.items()},
            [pid for p in parts for pid in p.pids],
        )


def main() -> int:
    parser = options(__doc__ or "", rounds=1)
    parser.add_argument("--no-peers", action="store_true", help="ours alone: the three servers take minutes")
    parser.add_argument("--share", type=float, default=1.0, help="of the work, for a quick look")
    parser.add_argument("--sound", type=Path, default=ROOT / "tests" / "data" / "jfk.wav")
    given = parser.parse_args()
    subject = chat.SUBJECTS["gemma-270m"]
    if absent := [str(path) for path in (subject.path, EMBEDDING, SPEECH) if not path.is_file()]:
        raise SystemExit(f"Models are missing (batch models pull): {', '.join(absent)}.")
    missing = [s.missing for s in (llama_server.SOURCE, whisper_server.SOURCE) if s.binary() is None]
    if missing and not given.no_peers:
        print(f"Only ours is measured: {'; '.join(missing)}.", file=sys.stderr)
    work = Work(subject, speech.wav(speech.cut(speech.samples(given.sound), 44 * given.share)), given.share)
    report = Report("All three at once (Gemma 3 270M, MiniLM, Whisper base)", machine(given.threads, given.rounds))
    with contextlib.ExitStack() as stack:
        mine = ours(given.threads, vlm=str(subject.path), embedding=str(EMBEDDING), stt=str(SPEECH))
        peers = [stack.enter_context(mine)]
        if not missing and not given.no_peers:
            peers.append(stack.enter_context(three_servers(subject, given.threads)))
        for peer in peers:
            Work(subject, speech.wav(bytes(speech.RATE * 2)), 0.05).at_once(peer, 1)
            peer.notes.clear()
        report.take(
            [
                *(Measure(f"{part} alone", "s", work.alone(part), "less") for part in work.parts),
                Measure("all at once", "s", work.at_once, "less", bar=1 / 3),
            ],
            peers,
            given.rounds,
        )
        medians = {m: statistics.median(by["ours"]) for m, by in report.figures.items()}
        parts = sum(medians[f"{part} alone"] for part in work.parts)
        ratio = medians["all at once"] / parts
        report.say(
            f"ours, all at once / one after the other: {medians['all at once']:.1f} s / {parts:.1f} s = {ratio:.2f} "
            "(at most 1.1)",
            ratio <= 1.1,
        )
        for peer in peers:
            waits = sorted(peer.notes.get("waits") or [0.0])
            report.say(
                f"a short embedding call beside it, {peer.name}: median {statistics.median(waits):.0f} ms, "
                f"worst {waits[-1]:.0f} ms"
            )
    return finish([report], given.json)


if __name__ == "__main__":
    sys.exit(main())
