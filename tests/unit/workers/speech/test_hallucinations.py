"""batch/workers/speech/hallucinations.py: what nobody said goes, and no word that somebody said."""

from __future__ import annotations

import time

import numpy as np
import pytest

from batch.media.sound.samples import SAMPLE_RATE as RATE
from batch.workers.speech.hallucinations import (
    is_annotation,
    is_bracketed,
    is_wordless,
    may_loop,
    without_loops,
    without_noises,
)
from batch.workers.speech.speech_activity import SpeechActivity
from batch.workers.speech.voice_activity import FRAME_SAMPLES
from batch.workers.speech.whisper.decoding import DecodedSegment
from segments import said, segment_of, token_of
from sounds import silence


def _activity(*spoken: tuple[float, float], seconds: float = 30.0) -> SpeechActivity:
    """Of sound in which somebody speaks from one second to another."""
    rng = np.random.default_rng(5)
    samples = silence(seconds)
    scores = np.zeros(-(-len(samples) // FRAME_SAMPLES), np.float32)
    for start, end in spoken:
        place = slice(round(start * RATE), round(end * RATE))
        syllables = 0.1 + np.abs(np.sin(np.arange(place.stop - place.start) / RATE * 9))
        samples[place] = rng.normal(0, 0.1, place.stop - place.start) * syllables
        scores[place.start // FRAME_SAMPLES : place.stop // FRAME_SAMPLES] = 1
    return SpeechActivity(samples, scores)


NOBODY, SOMEBODY = _activity(), _activity((0, 30))


def _texts(segments: list[DecodedSegment]) -> list[str]:
    return [segment.text for segment in segments]


@pytest.mark.parametrize(
    "text",
    [
        "[Music]",
        " (upbeat music)",
        " *sighs*",
        "（音乐）",
        " [BLANK_AUDIO]",
        "[Applause] (laughs)",
        "【拍手】",
        "(Musik)",
        "♪ music ♪",
    ],
)
def test_names_of_noises_are_no_speech(text: str) -> None:
    assert is_annotation(text)
    assert without_noises([segment_of(text)], SOMEBODY) == []


@pytest.mark.parametrize("text", ["...", "♪", " … ", "-", "。", "♪♪♪", "(", "[]", "", " "])
def test_marks_alone_are_no_speech(text: str) -> None:
    assert is_wordless(text) and without_noises([segment_of(text)], SOMEBODY) == []


@pytest.mark.parametrize(
    "text",
    [
        "Music",
        " (he said, and then he never came back again)",
        "♪ La la la ♪",
        "[a] or [b]",
        "3.",
        "(yes)",
        "(in a hurry)",
        "（我们走吧）",
        "（对，就是这样）",
        "【明日行きます】",
        "(ไปกันเถอะ)",
        "[two] [three]",
        "*no*",
        "(during the winter)",
    ],
)
def test_speech_in_brackets_is_kept_in_every_script(text: str) -> None:
    assert not is_wordless(text) and not is_annotation(text)
    assert _texts(without_noises([segment_of(text)], SOMEBODY)) == [text]
    kept = without_noises([segment_of(text)], NOBODY)
    assert _texts(kept) == ([] if is_bracketed(text) else [text]), "in brackets where nobody speaks: a name of a noise"


def test_brackets_are_judged_in_linear_time() -> None:
    for text in ("(" + "a" * 200_000, "(" * 200_000, "((a " * 50_000, "[" + "a b " * 50_000, "()" * 100_000, "*" * 200_001):
        started = time.process_time()
        is_annotation(text)
        is_bracketed(text)
        assert time.process_time() - started < 10, text[:10]


def test_loops_that_nobody_said_are_said_once() -> None:
    same = [segment_of(" Thank you.", start=float(i), end=i + 1.0) for i in range(5)]
    kept = without_loops([segment_of(" Hello."), *same, segment_of(" Bye.")], NOBODY)
    assert _texts(kept) == [" Hello.", " Thank you.", " Bye."] and kept[1].end == 5.0
    assert len(without_loops(same[:2], NOBODY)) == 2, "twice is no loop"
    assert without_loops(same[:1], NOBODY, before=[" Thank you.", " thank you."]) == []
    assert without_loops(same[:2], NOBODY, before=["Hello.", " Thank you."]) == [], "one before and two now are three"
    assert without_loops(same, NOBODY, before=["Hello.", " Thank you."]) == []
    assert len(without_loops(same[:1], NOBODY, before=["Hello.", " Thank you."])) == 1
    assert len(without_loops(same[:2], NOBODY, before=[" Thank you.", "Hello."])) == 2, "something else came in between"
    verse = segment_of(" And so my fellow Americans.", start=0.0, end=11.0)
    assert without_loops([verse, verse], NOBODY, before=[verse.text] * 2) == [verse, verse], "nobody loops for so long"
    assert len(without_loops([segment_of(" Hello."), *same[:2]], NOBODY, before=["Hi.", " Thank you."])) == 3
    assert may_loop(same) and not may_loop([]) and not may_loop(same[:2])


def test_what_somebody_says_again_and_again_is_kept() -> None:
    same = [segment_of(" No.", start=i * 0.5, end=i * 0.5 + 0.5) for i in range(9)]
    assert without_loops(same, SOMEBODY) == same
    assert without_loops(same[:1], SOMEBODY, before=[" No.", " No."]) == same[:1], "also over a chunk's border"
    partly = without_loops(same, _activity((0, 2)))
    assert len(partly) == 4, "as often as there is speech for it"


def test_a_segment_that_ends_in_a_loop_keeps_what_was_said() -> None:
    ids = [1, 2, 3, *[7, 8, 9] * 12]
    text = "".join(f" w{id}" for id in ids)
    stuck = segment_of(text, ids=ids, start=0.0, end=2.0)
    assert may_loop([stuck])
    (kept,) = without_loops([stuck], _activity((0, 0.5)))
    assert [token.id for token in kept.tokens] == [1, 2, 3, 7, 8, 9] and kept.text == " w1 w2 w3 w7 w8 w9"
    (whole,) = without_loops([segment_of(text, ids=ids, start=0.0, end=25.0)], SOMEBODY)
    assert len(whole.tokens) == len(ids), "somebody sings: there is time for all of it"
    (few,) = without_loops([segment_of("x", ids=[5] * 8)], NOBODY)
    assert len(few.tokens) == 8, "no no no is said"
    assert not may_loop([segment_of("x", ids=[5] * 8)])


def test_a_loop_whose_words_have_no_time_of_their_own_is_one_whatever_else_is_said_there() -> None:
    tokens = [token_of(f" w{i % 3}", end=20.0, id=i % 3) for i in range(60)]
    stuck = segment_of("".join(token.text.decode() for token in tokens), tokens, 0.0, 25.0)
    (kept,) = without_loops([stuck], SOMEBODY)
    assert len(kept.tokens) == 3
    spread = [token_of(f" w{i % 3}", end=i * 0.4, id=i % 3) for i in range(60)]
    (whole,) = without_loops([segment_of("x", spread, 0.0, 25.0)], SOMEBODY)
    assert len(whole.tokens) == 60


def test_numbers_that_repeat_are_no_loop() -> None:
    five = said((" 5,", 0.5), (" 5,", 1.0), (" 5,", 1.5), (" 5,", 2.0), (" 1,", 2.5), (" 2", 3.0))
    assert not may_loop([five]) and without_loops([five], SOMEBODY) == [five]
