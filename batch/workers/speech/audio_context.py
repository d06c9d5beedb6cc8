"""How much of its window Whisper hears a short sound in. The encoder costs what it hears: half a minute, or less."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from batch.media.sound.samples import SAMPLE_RATE, Samples
from batch.workers.speech.hallucinations import LONGEST_LOOPED_S, may_loop
from batch.workers.speech.whisper.cross_attention import CACHE_STEP
from batch.workers.speech.whisper.decoding import DecodedSegment, Decoding
from batch.workers.speech.whisper.model import WhisperModel

SAMPLES_PER_POSITION = SAMPLE_RATE // 50
"""Samples that one position of the encoder stands for."""

LEAST_POSITIONS, MOST_POSITIONS = 3 * CACHE_STEP, 4 * CACHE_STEP
"""Positions of the shortest and the longest short context: 15.4 and 20.5 seconds. In shorter ones Whisper, which was trained on
half minutes, mishears, or says the same without an end; in a longer one tiny.en often looked at the end twice, which takes what
was saved. All are multiples of what flash attention reads at once: it takes the emptiness behind other ones for sound.
bench/README.md has the figures."""

LEAST_SAMPLES = 3 * SAMPLE_RATE // 2
"""Samples of a single word: mostly doubtful, so the short context would only come on top."""

DOUBTFUL_LOGPROB = -0.3
"""Average log probability of a short context's tokens under which the whole window is heard."""

WHOLE_WINDOWS_AFTER_DOUBT = 4
"""Chunks after a doubtful one that are not tried in a short context: where all are doubtful, a fifth are heard twice."""


def audio_context(samples: int) -> int:
    """Encoder positions for so many samples; 0: the whole window."""
    if samples < LEAST_SAMPLES:
        return 0
    steps = -(-samples // (CACHE_STEP * SAMPLES_PER_POSITION))
    positions = max(LEAST_POSITIONS, steps * CACHE_STEP)
    return positions if positions <= MOST_POSITIONS else 0


def is_doubtful(segments: Sequence[DecodedSegment], least_logprob: float = DOUBTFUL_LOGPROB) -> bool:
    """Whether what was heard in a short context is to be heard again in the whole window."""
    tokens = [token for segment in segments for token in segment.tokens]
    if not tokens or may_loop(segments) or any(_comes_again(one, other) for one, other in pairwise(segments)):
        return True
    return sum(token.plog for token in tokens) / len(tokens) < least_logprob


def _comes_again(segment: DecodedSegment, following: DecodedSegment) -> bool:
    """Whether a segment is the one before it once more, and so short that Whisper may have made it up."""
    return segment.text == following.text and following.end - following.start < LONGEST_LOOPED_S


class ShortContexts:
    """The contexts that a job's sound is heard in, one chunk after the other."""

    def __init__(self, model: WhisperModel) -> None:
        self._model = model
        self.whole_windows = 0
        """Chunks to come that are heard in the whole window at once."""

    @property
    def are_used(self) -> bool:
        """Whether this model can hear in a short context without disturbing other calls."""
        return self._model.attention.can_be_cleared

    def transcribe(
        self, samples: Samples, decoding: Decoding, threads: int, stop: Callable[[], bool], *, once: bool = False
    ) -> list[DecodedSegment]:
        """`model.transcribe` in the shortest context that the sound needs. In the whole window where words are aligned (in a
        short one some are half a second off) and where the outcome is doubtful, as Whisper falls back to higher temperatures
        there. So are the chunks after a doubtful one: what is hard to hear mostly goes on."""
        context = audio_context(len(samples)) if self.are_used and not decoding.align else 0
        whole_windows = self.whole_windows - bool(context)
        if context and whole_windows < 0:
            short = replace(decoding, audio_ctx=context, temperature_inc=0.0)
            segments = self._model.transcribe(samples, short, threads, stop, once=once)
            if not is_doubtful(segments):
                return segments
            whole_windows = WHOLE_WINDOWS_AFTER_DOUBT
        segments = self._model.transcribe(samples, decoding, threads, stop, once=once)
        self.whole_windows = whole_windows  # only now: what was broken off is heard again as if for the first time
        return segments
