"""batch/workers/speech/word_timestamps.py and word_alignment.py: whole words, each where it was said."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from batch.media.sound.samples import SAMPLE_RATE as RATE
from batch.workers.speech.speech_activity import SpeechActivity
from batch.workers.speech.voice_activity import FRAME_SAMPLES
from batch.workers.speech.whisper.decoding import DecodedSegment, Token
from batch.workers.speech.word_alignment import Anchors, align
from batch.workers.speech.word_timestamps import TimedSegment, split_at_pauses, time_words, wrap
from segments import said, segment_of, token_of
from sounds import silence


def _activity(*spoken: tuple[float, float], seconds: float) -> SpeechActivity:
    rng = np.random.default_rng(5)
    samples = silence(seconds)
    scores = np.zeros(-(-len(samples) // FRAME_SAMPLES), np.float32)
    for start, end in spoken:
        place = slice(round(start * RATE), round(end * RATE))
        samples[place] = rng.normal(0, 0.1, place.stop - place.start)
        scores[place.start // FRAME_SAMPLES : place.stop // FRAME_SAMPLES] = 1
    return SpeechActivity(samples, scores)


def _timed(*tokens: Token, seconds: float = 10.0) -> TimedSegment:
    text = b"".join(token.text for token in tokens).decode()
    (timed,) = time_words([segment_of(text, tokens, 0, seconds)], _activity((0, seconds), seconds=seconds), [], (0.0,))
    return timed


def _words(*texts: str | bytes) -> list[str]:
    return [word.text for word in _timed(*map(token_of, texts)).words]


def test_words_are_whole_and_chinese_is_a_character_each() -> None:
    assert _words(" He", "llo", ",", " wor", "ld!") == ["Hello,", "world!"]
    moon = "月".encode()
    assert _words("我们", "登", moon[:2], moon[2:], "，", "iP", "hone", "好") == ["我", "们", "登", "月，", "iPhone", "好"]
    assert _words("说：“好”(对)") == ["说：", "“好”", "(对)"]
    assert _words(" don", "'t", " pay", " $", "5%.") == ["don't", "pay", "$5%."]
    assert _words(" สวัสดี") == ["ส", "วั", "ส", "ดี"]
    assert time_words([], _activity(seconds=1), [], (0.0,)) == []


def test_every_word_and_token_has_a_length_and_stands_in_order() -> None:
    moon = "月".encode()
    for tokens in (
        [token_of(" a", 2.0)] * 40,
        [token_of("我们登", 1.0), token_of(moon[:1], 1.0), token_of(moon[1:], 1.0), token_of("，", 1.0), token_of("x", 1.0)],
        [token_of(" jam", 9.9)] * 30,
        [token_of("..."), token_of(" "), token_of("!")],
        [token_of(" back", 5.0), token_of(" wards", 3.0), token_of(" here", 4.0)],
    ):
        timed = _timed(*tokens)
        for times in ([(word.start, word.end) for word in timed.words], list(timed.token_times)):
            assert all(end > start for start, end in times), times
            assert all(a[1] <= b[0] + 1e-9 for a, b in itertools.pairwise(times)), times
        assert len(timed.token_times) == len(tokens)


def test_more_words_than_the_sound_has_time_for_are_spread_evenly() -> None:
    timed = _timed(*[token_of(" word")] * 500, seconds=2.0)
    assert len(timed.words) == 500 and all(word.end > word.start for word in timed.words)
    nothing = time_words([segment_of(" hi there")], SpeechActivity(silence(0), np.zeros(0, np.float32)), [], (0.0,))
    assert all(word.end > word.start for word in nothing[0].words)


def test_words_stay_on_their_side_of_a_pause() -> None:
    activity = _activity((1.0, 3.0), (13.0, 15.0), seconds=16)
    # attention often leaves a pause to the word before it, and at times to the word behind it
    for end_of_last in (3.0, 6.0, 9.0, 12.9):
        segment = said((" He", 1.5), (" was", 2.0), (" young", 2.5), (" man.", end_of_last), (" Unless", 14.0), (" to", 15.0))
        (timed,) = time_words([segment], activity, [], (0.0,))
        assert all(0.9 <= word.start < word.end <= 3.1 for word in timed.words[:4]), end_of_last
        assert all(12.9 <= word.start < word.end <= 15.1 for word in timed.words[4:]), end_of_last
        parts = split_at_pauses(timed, 2.0, [])
        assert [part.segment.text for part in parts] == [" He was young man.", " Unless to"]
        assert parts[0].segment.end <= 3.1 and parts[1].segment.start >= 12.9


def test_no_word_stands_across_a_joint_and_segments_are_cut_there() -> None:
    activity = _activity((0.0, 8.0), seconds=8)
    for joint in (2.0, 3.3, 5.7):
        segment = said(*((f" w{i}", float(i + 1)) for i in range(8)))
        (timed,) = time_words([segment], activity, [joint], (0.0,))
        assert all(word.end <= joint + 1e-9 or word.start >= joint - 1e-9 for word in timed.words)
        parts = split_at_pauses(timed, 2.0, [joint])
        assert len(parts) == 2 and "".join(part.segment.text for part in parts) == segment.text
        assert parts[0].segment.end <= joint <= parts[1].segment.start
        assert [token for part in parts for token in part.segment.tokens] == list(segment.tokens)


def test_words_before_the_first_sound_and_behind_the_last_move_to_it() -> None:
    segment = said((" one", 12.5), (" two", 13.0), (" three", 20.0))
    (timed,) = time_words([segment], _activity((12.0, 14.0), seconds=21), [], (0.0,))
    assert timed.segment.start == pytest.approx(12.0, abs=0.1) and timed.segment.end == pytest.approx(14.0, abs=0.1)


def test_attention_that_sticks_and_jumps_is_overruled_by_loudness_and_length() -> None:
    spoken = np.ones(1000, np.float32)
    true = [(i * 0.5, i * 0.5 + 0.5) for i in range(20)]
    anchors = [Anchors(5.0, start if i else None, end, None, 0.0) for i, (start, end) in enumerate(true)]
    stuck = [
        replace(word, start=min(word.start or 0, 4.0) if i > 5 else word.start, end=4.0 if 5 < i < 9 else word.end)
        for i, word in enumerate(anchors)
    ]
    found = align(stuck, spoken, [], (0.0,))
    assert max(abs(a[0] - b[0]) for a, b in zip(found, true, strict=True)) < 0.3


def test_the_lag_that_fits_best_is_taken() -> None:
    activity = _activity((1.0, 2.0), (3.0, 4.0), (5.0, 6.0), seconds=7)
    late = said((" first", 2.12), (" second", 4.12), (" third", 6.12))
    (timed,) = time_words([late], activity, [], (0.0, 0.12))
    assert [round(word.start) for word in timed.words] == [1, 3, 5]


def _wrapped(texts: list[str | bytes], length: int, *, at_words: bool) -> list[str]:
    parts = wrap(_timed(*map(token_of, texts)), length, at_words=at_words)
    assert [token for part in parts for token in part.segment.tokens] == [token_of(text) for text in texts]
    assert all(part.segment.end > part.segment.start for part in parts)
    assert all(a.segment.end <= b.segment.start + 1e-9 for a, b in itertools.pairwise(parts))
    assert all(len(part.token_times) == len(part.segment.tokens) for part in parts)
    for part in parts:
        for word in part.words:
            assert part.segment.text[word.first : word.last + 1] == word.text or not at_words
    return [part.segment.text for part in parts]


def test_segments_are_wrapped_as_whisper_cpp_does_it() -> None:
    five: list[str | bytes] = [" 5", ",", " 5", ",", " 5", ",", " 5", ",", " 1", ",", " 2"]
    assert _wrapped(five, 1, at_words=True) == [" 5,", " 5,", " 5,", " 5,", " 1,", " 2"]
    assert _wrapped(five, 1, at_words=False) == [str(text) for text in five]
    assert "".join(_wrapped(five, 6, at_words=True)) == " 5, 5, 5, 5, 1, 2"
    assert _wrapped([" And", " so", " my", " fellow"], 100, at_words=True) == [" And so my fellow"]
    moon = "月".encode()
    assert _wrapped(["登", moon[:1], moon[1:2], moon[2:], "球"], 1, at_words=False) == ["登", "月", "球"]


def test_a_segment_cut_in_two_keeps_its_text_tokens_and_turn() -> None:
    whole = replace(said((" one", 1.0), (" two", 2.0), (" three", 6.0), (" four", 7.0)), turn_next=True)
    (timed,) = time_words([whole], _activity((0, 2), (5, 7), seconds=7), [], (0.0,))
    first, second = split_at_pauses(timed, 2.0, [])
    assert isinstance(first.segment, DecodedSegment) and (first.segment.text, second.segment.text) == (
        " one two",
        " three four",
    )
    assert (first.segment.turn_next, second.segment.turn_next) == (False, True)
    assert [word.text for word in second.words] == ["three", "four"]
    assert second.segment.text[second.words[0].first : second.words[0].last + 1] == "three"
    assert split_at_pauses(first, 2.0, []) == [first]
