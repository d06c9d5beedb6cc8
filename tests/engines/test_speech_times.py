"""When words were said, in recordings of people: hand-set times, pauses, cues, and no word lost."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from batch.media.sound.samples import SAMPLE_RATE as RATE
from batch.media.subtitles import cues, segments_to_srt, to_srt
from batch.payloads.speech import TranscriptionResult, Word
from batch.workers.speech.engine import SpeechEngine
from paths import DATA
from recordings import AUSTEN, austen, recording
from sounds import Samples, jfk, silence
from speech_setup import BASE, SILERO, TINY_EN, loaded, spoken, transcribe, word_errors, work

WORD_TIMES: dict[str, list[tuple[str, float, float]]] = json.loads((DATA / "word-times.json").read_text("utf-8"))
"""Start and end of each word, set by a forced alignment and corrected by hand on the spectrogram."""


@pytest.fixture(scope="module", params=["tiny.en", "base"])
def engine(request: pytest.FixtureRequest) -> Iterator[SpeechEngine]:
    engine = loaded(TINY_EN if request.param == "tiny.en" else BASE, vad_model=str(SILERO))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def english() -> Iterator[SpeechEngine]:
    engine = loaded(TINY_EN, vad_model=str(SILERO))
    yield engine
    engine.close()


def _sound(name: str) -> Samples:
    return jfk() if name == "jfk.wav" else recording(name)


def _words(result: TranscriptionResult) -> list[Word]:
    return [word for segment in result.segments for word in segment.words or []]


@pytest.mark.parametrize("name", sorted(WORD_TIMES))
def test_words_have_the_times_that_were_set_by_hand(engine: SpeechEngine, tmp_path: Path, name: str) -> None:
    words = _words(transcribe(engine, work(tmp_path, _sound(name), words=True, temperature_inc=0.0)))
    truth = WORD_TIMES[name]
    assert len(words) == len(truth), [word.word for word in words]
    errors = [
        abs(a - b)
        for word, (_, start, end) in zip(words, truth, strict=True)
        for a, b in ((word.start, start), (word.end, end))
    ]
    assert float(np.median(errors)) <= 0.08 and max(errors) <= 0.3, sorted(errors)[-4:]
    assert all(word.end > word.start for word in words)
    assert all(a.end <= b.start for a, b in itertools.pairwise(words))


def _with_pauses(pause: float, *parts: Samples) -> tuple[Samples, list[tuple[float, float]]]:
    """The parts with silence between, and where each lies."""
    sounds, places, place = [], [], 0.0
    for part in parts:
        sounds += [part, silence(pause)]
        places.append((place, place + len(part) / RATE))
        place += len(part) / RATE + pause
    return np.concatenate(sounds[:-1]), places


@pytest.mark.parametrize("pause", [3.0, 10.0, 25.0])
@pytest.mark.parametrize("vad", [False, True])
@pytest.mark.parametrize("wants_words", [False, True])
def test_words_stay_on_their_side_of_a_pause(
    english: SpeechEngine, tmp_path: Path, pause: float, vad: bool, wants_words: bool
) -> None:
    numbers = ["0870", "0880", "0890"] if pause < 25 else ["0880", "0890", "0930"]
    sound, places = _with_pauses(pause, *map(austen, numbers))
    result = transcribe(english, work(tmp_path, sound, words=wants_words, vad=vad or None))
    for number, (start, end) in zip(numbers, places, strict=True):
        inside = [s for s in result.segments if start - 0.3 <= s.start and s.end <= end + 0.3]
        assert word_errors("".join(segment.text for segment in inside), AUSTEN[number]) <= 0.25, inside
        assert spoken(inside[-1].text)[-1] == AUSTEN[number].split()[-1], "the last word is not on the far side"
    assert sum(start - 0.3 <= s.start and s.end <= end + 0.3 for s in result.segments for start, end in places) == len(
        result.segments
    ), "no segment lies across a pause"


@pytest.mark.parametrize("lead", [5.0, 12.0])
@pytest.mark.parametrize("wants_words", [False, True])
def test_cues_lie_where_speech_is(english: SpeechEngine, tmp_path: Path, lead: float, wants_words: bool) -> None:
    sound = np.concatenate([silence(lead), austen("0870"), silence(4)])
    result = transcribe(english, work(tmp_path, sound, words=wants_words))
    assert lead - 0.1 <= result.segments[0].start <= lead + 0.6
    assert result.segments[-1].end <= lead + 7.3
    for cue in cues(result.segments):
        assert lead - 0.1 <= cue.start < cue.end <= lead + 7.8
    assert " --> 00:00:00" not in segments_to_srt(result.segments) and to_srt(result.segments)


def test_nothing_is_without_length_in_any_format(english: SpeechEngine, tmp_path: Path) -> None:
    sound, _ = _with_pauses(2.5, austen("0880"), austen("0930"))
    for options in ({"words": True}, {"token_timestamps": True}, {"token_timestamps": True, "max_len": 1}, {"max_len": 12}):
        words = bool(options.pop("words", False))
        result = transcribe(english, work(tmp_path, sound, words=words, **options))
        assert all(segment.end > segment.start for segment in result.segments), options
        assert all(word.end > word.start for word in _words(result)), options


@pytest.mark.parametrize("options", [{}, {"max_len": 1}, {"max_len": 1, "split_on_word": True}, {"max_len": 30}])
def test_no_word_is_deleted_when_text_is_wrapped(english: SpeechEngine, tmp_path: Path, options: dict[str, int | bool]) -> None:
    if not shutil.which("espeak-ng"):
        pytest.skip("espeak-ng says the words of this test")
    path = tmp_path / "said.wav"
    # temperature 0 only: at others whisper.cpp draws, from a generator that goes on from call to call
    subprocess.run(["espeak-ng", "-s", "120", "-w", path, "five, five, five, five, one, two."], check=True, timeout=60)
    plain = transcribe(english, work(tmp_path, path, words=True, temperature_inc=0.0))
    wrapped = transcribe(english, work(tmp_path, path, words=True, temperature_inc=0.0, **options))
    assert spoken("".join(s.text for s in wrapped.segments)) == spoken("".join(s.text for s in plain.segments))
    assert spoken(plain.text).count("5") >= 3 and spoken(plain.text)[-2:] == ["1", "2"]
