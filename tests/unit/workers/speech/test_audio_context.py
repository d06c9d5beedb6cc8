"""batch/workers/speech/audio_context: how much of its window Whisper hears a short sound in."""

from __future__ import annotations

import pytest

from batch.media.sound.samples import SAMPLE_RATE
from batch.workers.speech.audio_context import DOUBTFUL_LOGPROB, audio_context, is_doubtful
from batch.workers.speech.whisper.cross_attention import CACHE_STEP
from batch.workers.speech.whisper.decoding import DecodedSegment, Token


@pytest.mark.parametrize(
    ("seconds", "positions"), [(0.05, 0), (1.4, 0), (1.5, 768), (11, 768), (15.36, 768), (15.4, 0), (30, 0)]
)
def test_sound_that_is_neither_a_word_nor_long_is_heard_in_a_context_that_holds_all_of_it(
    seconds: float, positions: int
) -> None:
    assert audio_context(round(seconds * SAMPLE_RATE)) == positions
    assert positions == 0 or (positions / 50 >= seconds and positions % CACHE_STEP == 0)


def said(*logprobs: float, ids: list[int] | None = None) -> DecodedSegment:
    tokens = tuple(
        Token(token, b" a", None, 0.0, None, 1.0, logprob)
        for token, logprob in zip(ids or range(len(logprobs)), logprobs, strict=True)
    )
    return DecodedSegment(0.0, 1.0, " a" * len(tokens), tokens, -0.1, 0.0, False)


def test_what_is_likely_is_believed() -> None:
    assert not is_doubtful([said(-0.1, -0.4), said(-0.2)])


@pytest.mark.parametrize(
    "segments",
    [
        [],
        [said(DOUBTFUL_LOGPROB - 0.1)],
        [said(-0.1), said(*[DOUBTFUL_LOGPROB * 2] * 3)],
        [said(*[-0.1] * 40, ids=[7, 8] * 20)],
        [said(-0.1, -0.1), said(-0.1, -0.1)],
    ],
    ids=["no words", "unlikely", "unlikely in its greater part", "a loop", "the same twice"],
)
def test_no_words_unlikely_ones_and_loops_are_doubtful(segments: list[DecodedSegment]) -> None:
    assert is_doubtful(segments)
