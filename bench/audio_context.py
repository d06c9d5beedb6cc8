"""A short context against Whisper's whole window: word errors and CPU time over recordings of people.

    python bench/audio_context.py [--model FILE ...] [--sounds FOLDER --texts FILE] [--count N] [--joined N]
                                   [--positions N] [--threads N]

Whisper's encoder hears half a minute however short a clip is; with a smaller `audio_ctx` it hears less, and costs less. What
the service does (batch/workers/speech/audio_context.py) is put beside other thresholds of doubt. FOLDER has Asterisk's
prompts as WAV files (Debian: asterisk-core-sounds-en-wav), FILE is the core-sounds-en.txt that Asterisk's sounds come with; N
of them are drawn, always the same. Without them only the sentences of Debian's pocketsphinx-testdata are heard, which are
fetched. --joined puts recordings together to so many of 15 to 20 seconds, which have a longer context, and hears those only.
Exits with 1 where there are more word errors.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from peer import ROOT

sys.path.append(str(ROOT / "tests" / "support"))

from batch.media.sound.audio import load
from batch.media.sound.samples import SAMPLE_RATE, Samples
from batch.settings import default_models_dir
from batch.workers.speech.audio_context import DOUBTFUL_LOGPROB, audio_context, is_doubtful
from batch.workers.speech.whisper.decoding import DecodedSegment, Decoding
from batch.workers.speech.whisper.model import WhisperModel
from recordings import AUSTEN, austen, recording
from sounds import JFK_SAYS, jfk

OTHERS = {
    "001.wav": "ten of clubs",
    "003.wav": "seven of clubs",
    "005.wav": "eight of spades four of clubs seven of hearts",
    "goforward.raw": "go forward ten meters",
    "numbers.raw": "one two three four five six seven eight nine ten",
    "something.raw": "go somewhere and do something",
}
"""What is said in more of pocketsphinx's recordings."""

LONGEST_S = 15.0
JOINED_S = (15.5, 20.4)
GAP_S = (0.25, 0.8)
"""Seconds between recordings that were put together."""
OTHER_LOGPROBS = (-10.0, -0.5, -0.4, -0.35)
"""Thresholds of doubt beside the one that is used."""

_TO_NINETEEN = (
    "zero one two three four five six seven eight nine ten "
    "eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_NUMBERS = {str(number): word for number, word in enumerate(_TO_NINETEEN.split())}
_NUMBERS |= {str(20 + 10 * number): word for number, word in enumerate(_TENS.split())}
_TO_TWELFTH = "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
_ORDINALS = {number: f"{word.removesuffix('y')}{'ieth' if word[-1] == 'y' else 'th'}" for number, word in _NUMBERS.items()}
_ORDINALS |= {"100": "hundredth"} | {str(number): word for number, word in enumerate(_TO_TWELFTH.split())}


@dataclass(frozen=True, slots=True)
class Spoken:
    """A recording and what is said in it."""

    name: str
    samples: Samples
    text: str


@dataclass(frozen=True, slots=True)
class Heard:
    """What a model made of a recording in one context."""

    segments: list[DecodedSegment]
    cpu_s: float

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments)


def sentences() -> Iterator[Spoken]:
    """The clip of tests/data, and pocketsphinx's recordings."""
    yield Spoken("jfk", jfk(), JFK_SAYS)
    for number, text in AUSTEN.items():
        yield Spoken(number, austen(number), text)
    for name, text in OTHERS.items():
        yield Spoken(name, recording(name), text)


def prompts(folder: Path, texts: Path, count: int) -> Iterator[Spoken]:
    """So many of Asterisk's prompts: whole words, no tones, no names of letters."""
    listed = []
    for line in texts.read_text("utf-8").splitlines():
        name, colon, text = line.partition(":")
        path = folder / f"{name.strip().removesuffix('.wav')}.wav"
        is_speech = not name.startswith((";", "silence/", "letters/", "phonetic/")) and text.strip()[:1] not in (
            "",
            "[",
            "<",
            "(",
        )
        if colon and is_speech and path.is_file():
            listed.append((path, text))
    for path, text in random.Random(5).sample(listed, min(count, len(listed))):
        samples = load(path)
        if len(samples) <= LONGEST_S * SAMPLE_RATE:
            yield Spoken(path.stem, samples, text)


def joined(recordings: list[Spoken], count: int) -> Iterator[Spoken]:
    """So many sounds of several recordings each, always the same."""
    drawn = random.Random(1)
    for number in range(count):
        parts: list[Samples] = []
        texts: list[str] = []
        seconds, wanted_s = 0.0, drawn.uniform(*JOINED_S)
        for one in drawn.sample(recordings, len(recordings)):
            gap = np.zeros(round(drawn.uniform(*GAP_S) * SAMPLE_RATE), np.float32)
            longer = seconds + (len(one.samples) + len(gap)) / SAMPLE_RATE
            if longer <= JOINED_S[1]:
                parts += [one.samples, gap]
                texts.append(one.text)
                seconds = longer
            if seconds >= wanted_s:
                break
        yield Spoken(f"joined {number}", np.concatenate(parts), " ".join(texts))


def words(text: str) -> list[str]:
    """The words of a text, numbers written out digit by digit."""
    text = text.lower().replace("mister", "mr").replace("#", " pound ").replace("*", " star ").replace("'", "")
    text = re.sub(r"(\d+)(?:st|nd|rd|th)\b", lambda number: f" {_ORDINALS.get(number[1], number[0])} ", text)
    text = re.sub(r"\d+", lambda number: f" {_NUMBERS.get(number[0]) or ' '.join(_NUMBERS[c] for c in number[0])} ", text)
    return re.sub(r"[^a-z]", " ", text).split()


def errors(heard: str, said: str) -> int:
    """Words to change, add or drop; spaces alone are no error ("M I S D N", "voicemail")."""
    a, b = words(heard), words(said)
    if "".join(a) == "".join(b):
        return 0
    row = list(range(len(b) + 1))
    for i, word in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1]


def hear(model: WhisperModel, spoken: Spoken, positions: int, threads: int) -> Heard:
    """At temperature 0 only: what falls back to others differs from run to run."""
    begun = time.process_time()
    segments = model.transcribe(spoken.samples, Decoding(audio_ctx=positions, temperature_inc=0.0), threads)
    return Heard(segments, time.process_time() - begun)


def compare(path: Path, recordings: list[Spoken], positions: int | None, threads: int) -> bool:
    """Print a model's word errors and CPU time in the whole window and in a short context, for several thresholds of doubt;
    whether the one that is used makes no more errors."""
    model = WhisperModel(path)
    whole = [hear(model, spoken, 0, threads) for spoken in recordings]
    said = sum(len(words(spoken.text)) for spoken in recordings)
    whole_errors = sum(errors(one.text, spoken.text) for one, spoken in zip(whole, recordings, strict=True))
    whole_s = sum(one.cpu_s for one in whole)
    print(f"{path.name}: {len(recordings)} recordings, {said} words", flush=True)
    print(f"  whole window: {whole_errors} word errors ({whole_errors / said:.2%}), {whole_s:.1f} s of CPU", flush=True)
    is_short = [audio_context(len(spoken.samples)) > 0 for spoken in recordings]
    short = [
        hear(model, spoken, positions or audio_context(len(spoken.samples)), threads) if wanted else one
        for spoken, one, wanted in zip(recordings, whole, is_short, strict=True)
    ]
    model.close()
    good = True
    for least in (*OTHER_LOGPROBS, DOUBTFUL_LOGPROB):
        count, seconds, again = 0, 0.0, 0
        for one, other, spoken, wanted in zip(whole, short, recordings, is_short, strict=True):
            seconds += other.cpu_s
            if wanted and is_doubtful(other.segments, least):
                other, seconds, again = one, seconds + one.cpu_s, again + 1
            count += errors(other.text, spoken.text)
        good = count <= whole_errors
        print(
            f"  {positions or 'as many as it takes'} positions, doubt below {least}: {count} word errors ({count / said:.2%}), "
            f"{seconds / whole_s:.2f} of the CPU time, {again} of {sum(is_short)} heard again",
            flush=True,
        )
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, action="append", help="default: base and tiny.en")
    parser.add_argument("--sounds", type=Path)
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--count", type=int, default=90)
    parser.add_argument("--joined", type=int, default=0, help="so many sounds of several recordings each")
    parser.add_argument("--positions", type=int, help="of the short context; default: the service's own choice")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    recordings = list(sentences())
    if given.sounds and given.texts:
        recordings += prompts(given.sounds, given.texts, given.count)
    if given.joined:
        recordings = list(joined(recordings, given.joined))
    models = given.model or [default_models_dir() / name for name in ("ggml-base.bin", "ggml-tiny.en.bin")]
    good = [compare(model, recordings, given.positions, given.threads) for model in models]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
