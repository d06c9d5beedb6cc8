"""batch/workers/speech/audio_context: how much of its window Whisper hears a short sound in."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from batch.media.sound.samples import SAMPLE_RATE
from batch.workers.speech.audio_context import (
    DOUBTFUL_LOGPROB,
    LEAST_POSITIONS,
    WHOLE_WINDOWS_AFTER_DOUBT,
    ShortContexts,
    audio_context,
    is_doubtful,
)
from batch.workers.speech.whisper.cross_attention import CACHE_STEP
from batch.workers.speech.whisper.decoding import DecodedSegment, Decoding, Token
from batch.workers.speech.whisper.model import Aborted, WhisperModel


@pytest.mark.parametrize(
    ("seconds", "positions"),
    [(0.05, 0), (1.4, 0), (1.5, 768), (11, 768), (15.36, 768), (15.4, 1024), (20.48, 1024), (20.5, 0), (30, 0)],
)
def test_sound_that_is_neither_a_word_nor_a_window_is_heard_in_the_least_context_that_holds_all_of_it(
    seconds: float, positions: int
) -> None:
    assert audio_context(round(seconds * SAMPLE_RATE)) == positions
    assert positions == 0 or (positions / 50 >= seconds and positions % CACHE_STEP == 0)


def said(*logprobs: float, ids: list[int] | None = None, seconds: float = 1.0) -> DecodedSegment:
    tokens = tuple(
        Token(token, b" a", None, 0.0, None, 1.0, logprob)
        for token, logprob in zip(ids or range(len(logprobs)), logprobs, strict=True)
    )
    return DecodedSegment(0.0, seconds, " a" * len(tokens), tokens, -0.1, 0.0, False)


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


def test_a_long_sentence_that_is_said_twice_is_believed() -> None:
    assert not is_doubtful([said(-0.1, -0.1, seconds=6.0), said(-0.1, -0.1, seconds=6.0)])


class Model:
    """Stands for a model that is unsure of itself in some calls, and notes the contexts that it is asked for."""

    attention = SimpleNamespace(can_be_cleared=True)

    def __init__(self, *doubtful: int, stopped: tuple[int, ...] = ()) -> None:
        """`doubtful`, `stopped`: numbers of calls, from 1."""
        self.doubtful, self.stopped = doubtful, stopped
        self.contexts: list[int] = []

    def transcribe(self, samples: Any, decoding: Decoding, *_args: Any, **_more: Any) -> list[DecodedSegment]:
        self.contexts.append(decoding.audio_ctx)
        if len(self.contexts) in self.stopped:
            raise Aborted
        is_doubted = decoding.audio_ctx and len(self.contexts) in self.doubtful
        return [said(DOUBTFUL_LOGPROB - 1 if is_doubted else -0.1)]


def hear(contexts: ShortContexts, *, align: bool = False) -> None:
    contexts.transcribe(np.zeros(10 * SAMPLE_RATE, np.float32), Decoding(align=align), 1, lambda: False)


def test_the_chunks_after_a_doubtful_one_are_heard_in_the_whole_window_at_once() -> None:
    model = Model(2)
    contexts = ShortContexts(cast("WhisperModel", model))
    for _ in range(3 + WHOLE_WINDOWS_AFTER_DOUBT):
        hear(contexts)
    doubted = [LEAST_POSITIONS, 0]
    assert model.contexts == [LEAST_POSITIONS, *doubted, *[0] * WHOLE_WINDOWS_AFTER_DOUBT, LEAST_POSITIONS]


@pytest.mark.parametrize("stopped", [2, 3], ids=["behind the doubtful hearing", "in a chunk after it"])
def test_a_chunk_that_was_broken_off_and_is_heard_again_counts_once(stopped: int) -> None:
    model = Model(1, 3 if stopped == 2 else 1, stopped=(stopped,))
    contexts = ShortContexts(cast("WhisperModel", model))
    heard = 0
    while heard < 1 + WHOLE_WINDOWS_AFTER_DOUBT:
        with contextlib.suppress(Aborted):
            hear(contexts)
            heard += 1
    calls = len(model.contexts)
    hear(contexts)
    assert model.contexts[calls - 1 :] == [0, LEAST_POSITIONS]


def test_words_are_aligned_in_the_whole_window() -> None:
    model = Model()
    hear(ShortContexts(cast("WhisperModel", model)), align=True)
    assert model.contexts == [0]
