"""How much of its window Whisper hears a short sound in. The encoder costs what it hears: half a minute, or less."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from batch.media.sound.samples import SAMPLE_RATE, Samples
from batch.workers.speech.hallucinations import may_loop
from batch.workers.speech.whisper.cross_attention import CACHE_STEP
from batch.workers.speech.whisper.decoding import DecodedSegment, Decoding
from batch.workers.speech.whisper.model import WhisperModel

SAMPLES_PER_POSITION = SAMPLE_RATE // 50
"""Samples that one position of the encoder stands for."""

SHORT_POSITIONS = 3 * CACHE_STEP
"""Positions of the one short context, 15.4 seconds: a multiple of what flash attention reads at once. In shorter ones Whisper,
which was trained on half minutes, mishears, or says the same without an end: bench/README.md has the figures."""

LEAST_SAMPLES = 3 * SAMPLE_RATE // 2
"""Samples of a single word: mostly doubtful, so the short context would only come on top."""

DOUBTFUL_LOGPROB = -0.3
"""Average log probability of a short context's tokens under which the whole window is heard."""


def audio_context(samples: int) -> int:
    """Encoder positions for so many samples; 0: the whole window."""
    return SHORT_POSITIONS if LEAST_SAMPLES <= samples <= SHORT_POSITIONS * SAMPLES_PER_POSITION else 0


def is_doubtful(segments: Sequence[DecodedSegment], least_logprob: float = DOUBTFUL_LOGPROB) -> bool:
    """Whether what was heard in a short context is to be heard again in the whole window."""
    tokens = [token for segment in segments for token in segment.tokens]
    if not tokens or may_loop(segments) or any(one.text == other.text for one, other in pairwise(segments)):
        return True
    return sum(token.plog for token in tokens) / len(tokens) < least_logprob


def transcribe(
    model: WhisperModel, samples: Samples, decoding: Decoding, threads: int, stop: Callable[[], bool], *, once: bool = False
) -> list[DecodedSegment]:
    """`model.transcribe` in the shortest context that the sound needs. In the whole window where the outcome is doubtful, as
    Whisper falls back to higher temperatures there, and where words are aligned: in a short one some are half a second off."""
    context = audio_context(len(samples)) if model.attention.can_be_cleared and not decoding.align else 0
    if context:
        short = replace(decoding, audio_ctx=context, temperature_inc=0.0)
        segments = model.transcribe(samples, short, threads, stop, once=once)
        if not is_doubtful(segments):
            return segments
    return model.transcribe(samples, decoding, threads, stop, once=once)
