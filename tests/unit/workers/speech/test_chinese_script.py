"""batch/workers/speech/chinese_script.py and transcript_segments.py: Chinese in the characters that were asked for."""

from __future__ import annotations

import numpy as np
import pytest

from batch.media.sound.samples import SAMPLE_RATE
from batch.payloads.speech import TranscriptionOptions, TranscriptionPayload
from batch.workers.speech.chinese_script import ChineseScript
from batch.workers.speech.chunking import Chunk, Piece
from batch.workers.speech.speech_activity import SpeechActivity
from batch.workers.speech.transcript_segments import SegmentWriter
from batch.workers.speech.voice_activity import frames_of
from batch.workers.speech.word_timestamps import time_words
from segments import segment_of, token_of

TRADITIONAL, SIMPLIFIED = "頭髮發白的皇后在後面", "头发发白的皇后在后面"


@pytest.mark.parametrize("tag", ["zh-CN", "zh-Hans", "zh_SG", "zh-Hans-TW"])
def test_simplified_characters_are_given_to_who_wants_them(tag: str) -> None:
    assert ChineseScript(tag).convert(TRADITIONAL) == SIMPLIFIED
    assert ChineseScript(tag).convert(SIMPLIFIED) == SIMPLIFIED


@pytest.mark.parametrize(("tag", "inside", "taiwan"), [("zh-Hant", "裏", "臺"), ("zh-TW", "裡", "臺"), ("zh-HK", "裏", "台")])
def test_traditional_characters_are_those_of_the_region(tag: str, inside: str, taiwan: str) -> None:
    script = ChineseScript(tag)
    assert script.changes and script.convert(SIMPLIFIED) == TRADITIONAL == script.convert(TRADITIONAL)
    assert script.convert("台湾里面") == f"{taiwan}灣{inside}面"


@pytest.mark.parametrize("tag", ["zh", "en", "auto", "", "ja-JP", "en-TW"])
def test_who_says_nothing_of_characters_gets_what_whisper_wrote(tag: str) -> None:
    assert not ChineseScript(tag).changes and ChineseScript(tag).convert(TRADITIONAL) == TRADITIONAL


def test_parts_are_converted_as_what_stands_around_them_demands() -> None:
    assert ChineseScript("zh-TW").convert_parts(["头", "发", "发", "白"]) == ["頭", "髮", "發", "白"]
    assert ChineseScript("zh-TW").convert_parts([]) == []


@pytest.mark.parametrize(("words", "tokens"), [(True, False), (False, True)])
def test_text_words_and_tokens_are_in_the_same_characters(words: bool, tokens: bool) -> None:
    hair = "发".encode()
    made = [token_of("头", 0.5), token_of(hair[:2], 0.8), token_of(hair[2:], 1.0), token_of("发白", 1.9)]
    samples = np.random.default_rng(1).normal(0, 0.1, 2 * SAMPLE_RATE).astype(np.float32)
    scores = np.ones(len(frames_of(samples)), np.float32)
    (timed,) = time_words([segment_of("头发发白", made, 0, 2)], SpeechActivity(samples, scores), [], (0.0,))
    payload = TranscriptionPayload(
        blob="", words=words, options=TranscriptionOptions(language="zh-TW", token_timestamps=tokens)
    )
    written = SegmentWriter(payload, 0.0).write(timed, Chunk((Piece(0, samples, scores),), 0), 0)
    assert written.text == "頭髮發白" and written.words is not None
    texts = [word.word for word in written.words]
    assert texts == (["頭", "髮", "發", "白"] if words else ["頭", "", "髮", "發白"])
