"""Speech against whisper.cpp's server, alternating in one run: dense speech, half silence, and a clip during a long file.

    BATCH_WHISPER_SERVER=/path/to/whisper-server python bench/speech.py [--model FILE | turbo-shape] [--sound FILE.wav]
                                                    [--rounds N] [--threads N] [--long SECONDS] [--json]

Both have the same model and the same number of threads; whisper-server has its defaults otherwise. The sound is the
clip of tests/data, put together to what is needed. With `--model turbo-shape`, the cost at the size of Whisper
large-v3-turbo, the words mean nothing and are not counted.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import sys
import threading
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import msgspec
import whisper_server
import whisper_turbo_shape
from measure import Measure, Report, finish, machine, options
from peer import ROOT, Client, Peer, ours

from batch.payloads.speech import TranscriptionPayload
from batch.queue.channel import Waker
from batch.queue.jobs import Draft, Kind, Origin, Priority
from batch.queue.open_store import open_store
from batch.queue.spool import Spool
from batch.settings import Settings, default_models_dir

RATE = 16000
SAID = "and so my fellow americans ask not what your country can do for you ask what you can do for your country"
"""The words of the clip."""


def samples(path: Path) -> bytes:
    with wave.open(str(path)) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (RATE, 1, 2):
            raise SystemExit(f"{path} must be 16-bit mono at {RATE} Hz.")
        return file.readframes(file.getnframes())


def wav(data: bytes) -> bytes:
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(data)
    return written.getvalue()


def cut(data: bytes, seconds: float) -> bytes:
    """So much of the sound, said again as often as it takes."""
    wanted = int(seconds * RATE) * 2
    return (data * (wanted // len(data) + 1))[:wanted]


def transcribe(client: Client, sound: bytes) -> str:
    """The text of a WAV file, asked as whisper.cpp's server is asked."""
    fields = {"response_format": "json", "language": "en"}
    return str(client.upload("/inference", fields, "sound.wav", "audio/wav", sound)["text"])


def errors(text: str, times: int) -> float:
    """Word error rate against the clip's words said so many times."""
    heard = "".join(c if c.isalpha() or c.isspace() else " " for c in text.lower()).split()
    wanted = SAID.split() * times
    row = list(range(len(heard) + 1))
    for i, word in enumerate(wanted, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1] / len(wanted)


class SpeechMeasures:
    """What is measured. Every method is a Measure's `run`."""

    def __init__(self, clip: bytes) -> None:
        silence = bytes(len(clip))
        self.clip = wav(clip)
        self.dense = wav(clip * 4)
        self.half = wav((clip + silence) * 4)

    def _seconds(self, peer: Peer, sound: bytes, times: int) -> float:
        client = peer.client("stt")
        client.refresh()
        begun = time.perf_counter()
        text = transcribe(client, sound)
        seconds = time.perf_counter() - begun
        peer.notes.setdefault("errors", []).append(errors(text, times))
        return seconds

    def short(self, peer: Peer, _: int) -> float:
        return self._seconds(peer, self.clip, 1)

    def dense_speech(self, peer: Peer, _: int) -> float:
        return self._seconds(peer, self.dense, 4)

    def half_silent(self, peer: Peer, _: int) -> float:
        return self._seconds(peer, self.half, 4)


@contextlib.contextmanager
def long_file(peer: Peer, sound: bytes) -> Iterator[None]:
    """A long file that is being transcribed: a job that nobody waits for with ours, a request with theirs."""
    if peer.home is not None:
        settings = Settings.load(peer.home)
        store, waker = open_store(settings.database_address), Waker(settings.state_dir)
        sha256 = Spool(settings.state_dir / "spool").keep(sound, durable=True)
        request = {"blob": sha256, "filename": "long.wav", "options": {"language": "en"}}
        draft = Draft(msgspec.convert(request, TranscriptionPayload), Origin.BATCH, Priority.BATCH, blobs=(sha256,))
        with store.transaction(durable=True) as transaction:
            transaction.submit(draft)
        waker.wake(Kind.STT)
        while (job := store.job(draft.id)) is not None and not job.progress and not job.state.ended:
            time.sleep(0.05)
        yield
        if (job := store.job(draft.id)) is not None and job.state.ended:
            peer.notes["overtaken"] = "no: the long file ended first, make it longer"
        store.cancel(draft.id)
        waker.wake(Kind.STT)
        waker.close()
        store.close()
        return
    client = peer.connect("stt")
    thread = threading.Thread(target=transcribe, args=(client, sound))
    thread.start()
    time.sleep(1.0)  # it has read the file by then; nothing tells
    yield
    thread.join()


def overtaking(report: Report, peers: list[Peer], clip: bytes, seconds: float) -> None:
    """How long a two-second clip waits, with nothing else to do and during a long file."""
    short, long = wav(cut(clip, 2.0)), wav(cut(clip, seconds))
    for peer in peers:
        mine = peer.home is not None
        idle = statistics.median(waited(peer, short) for _ in range(3))
        with long_file(peer, long):
            waits = [waited(peer, short) for _ in range(3 if mine else 1)]
        report.say(
            f"a 2 s clip during a file of {seconds:.0f} s, {peer.name}: {statistics.median(waits):.2f} s (alone {idle:.2f} s) "
            + peer.notes.get("overtaken", "")
        )


def waited(peer: Peer, sound: bytes) -> float:
    client = peer.client("stt")
    client.refresh()
    begun = time.perf_counter()
    transcribe(client, sound)
    return time.perf_counter() - begun


def main() -> int:
    parser = options(__doc__ or "", rounds=3)
    parser.add_argument("--model", type=Path, default=default_models_dir() / "ggml-base.bin")
    parser.add_argument("--sound", type=Path, default=ROOT / "tests" / "data" / "jfk.wav")
    parser.add_argument("--long", type=float, default=600.0, help="seconds of the long file; 0 leaves it out")
    given = parser.parse_args()
    has_words = str(given.model) != whisper_turbo_shape.NAME
    given.model = whisper_turbo_shape.named(given.model)
    clip = samples(given.sound)
    binary = whisper_server.binary()
    title = f"Speech ({given.model.name}, {len(clip) / 2 / RATE:.0f} s clip)"
    report = Report(title, machine(given.threads, given.rounds), only=given.only)
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(ours(given.threads, stt=str(given.model)))]
        if binary:
            peers.append(stack.enter_context(whisper_server.whisper(binary, given.model, threads=given.threads)))
        else:
            print(f"Only ours is measured: {whisper_server.MISSING}.", file=sys.stderr)
        m = SpeechMeasures(clip)
        report.take(
            [
                Measure("the clip", "s", m.short, "less", bar=1.05),
                Measure("dense speech", "s", m.dense_speech, "less", bar=0.9),
                Measure("half silent", "s", m.half_silent, "less", bar=0.5),
            ],
            peers,
            given.rounds,
        )
        if has_words:
            rates = {peer.name: statistics.mean(peer.notes.get("errors") or [0.0]) for peer in peers}
            report.say(
                "word error rate: " + ", ".join(f"{name} {rate:.1%}" for name, rate in rates.items()),
                rates["ours"] <= min(rates.values()) + 0.01,
            )
        if given.long and not given.only:
            overtaking(report, peers, clip, given.long)
    return finish([report], given.json)


if __name__ == "__main__":
    sys.exit(main())
