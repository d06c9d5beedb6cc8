"""Where in a chunk somebody speaks, every 10 ms: by its loudness and by what voice activity detection says of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from batch.media.sound.samples import SAMPLE_RATE, Samples
from batch.workers.speech.voice_activity import FRAME_SAMPLES, Scores

STEP_S = 0.01
"""Seconds of one step of the activity."""

_STEP_SAMPLES = SAMPLE_RATE // 100
_PREEMPHASIS = 0.95
"""Lifts what is high, so that an "s" counts as a vowel does."""
_RANGE_DB = 45.0
"""What is softer than the loudest by more than this is no speech, so that digital silence does not lower the bar."""
_SOFTNESS_DB = 2.5
_VAD_MARGIN_FRAMES = 4
"""Frames around those that hold speech in which soft sounds of it may hide."""
_VAD_SCORE = 0.35
_QUIET_SHARE = 0.15
"""What loudness alone counts for where voice activity detection hears nothing."""
_SHORTEST_SPEECH_S = 0.06
_SHORTEST_PAUSE_S = 0.3


class SpeechActivity:
    """Of one chunk; times are seconds in it."""

    def __init__(self, samples: Samples, scores: Scores) -> None:
        """`scores`: one for every FRAME_SAMPLES of the samples."""
        self.speech: NDArray[np.float32] = _loudness(samples) * _gate(scores, len(samples) // _STEP_SAMPLES)
        """Likelihood 0..1 of speech, one a step of STEP_S."""
        self.regions: list[tuple[float, float]] = _regions(self.speech)
        """Start and end of each stretch of speech, in order."""

    def spoken_s(self, start: float, end: float) -> float:
        """Seconds of speech between two times."""
        return float(self.speech[max(0, round(start / STEP_S)) : max(0, round(end / STEP_S))].sum()) * STEP_S

    def pauses(self, least_s: float) -> list[tuple[float, float]]:
        """Start and end of each pause of at least so many seconds, also before the first word and behind the last."""
        ends = [0.0, *(end for _, end in self.regions)]
        starts = [*(start for start, _ in self.regions), len(self.speech) * STEP_S]
        return [(end, start) for end, start in zip(ends, starts, strict=True) if start - end >= least_s]

    def trimmed(self, start: float, end: float, start_slack_s: float, end_slack_s: float) -> tuple[float, float]:
        """The times brought to the first and last speech between them, where they are off by more than the slack; as they
        are where nobody speaks between them."""
        inside = [region for region in self.regions if region[1] > start and region[0] < end]
        if not inside:
            return start, end
        first, last = max(start, inside[0][0]), min(end, inside[-1][1])
        return (first if first - start > start_slack_s else start), (last if end - last > end_slack_s else end)


def longest_pause(regions: Sequence[tuple[float, float]]) -> float:
    """Seconds of the longest pause between stretches of speech; 0 where there is none."""
    return max((following[0] - region[1] for region, following in pairwise(regions)), default=0.0)


def _loudness(samples: Samples) -> NDArray[np.float32]:
    """How much each step of 10 ms stands out from the quiet of the chunk, 0..1; 20 ms count for it."""
    steps = len(samples) // _STEP_SAMPLES
    if steps == 0:
        return np.zeros(0, np.float32)
    bright = np.append(samples[:1], samples[1:] - np.float32(_PREEMPHASIS) * samples[:-1])
    power = np.square(bright[: steps * _STEP_SAMPLES]).reshape(steps, _STEP_SAMPLES).mean(axis=1)
    power = (power + np.append(power[1:], power[-1:])) / 2
    level = 10 * np.log10(np.maximum(power, 1e-12))
    high = float(np.percentile(level, 95))
    low = max(float(np.percentile(level, 5)), high - _RANGE_DB)
    bar = low + max(6.0, 0.3 * (high - low))
    loudness: NDArray[np.float32] = (1 / (1 + np.exp(-(level - bar) / _SOFTNESS_DB))).astype(np.float32)
    return loudness


def _gate(scores: Scores, steps: int) -> NDArray[np.float32]:
    """What loudness counts for, every 10 ms: all of it where somebody speaks."""
    if len(scores) == 0 or steps == 0:
        return np.ones(steps, np.float32)
    speaks = (scores >= _VAD_SCORE).astype(np.float32)
    wide = np.convolve(speaks, np.ones(2 * _VAD_MARGIN_FRAMES + 1, np.float32), "same") > 0
    frame = np.minimum(np.arange(steps) * _STEP_SAMPLES // FRAME_SAMPLES, len(scores) - 1)
    return np.where(wide[frame], np.float32(1), np.float32(_QUIET_SHARE))


def _regions(speech: NDArray[np.float32]) -> list[tuple[float, float]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], (speech > 0.5).astype(np.int8), [0]])))
    regions: list[tuple[float, float]] = []
    for start, end in zip(edges[::2] * STEP_S, edges[1::2] * STEP_S, strict=True):
        if regions and start - regions[-1][1] < _SHORTEST_PAUSE_S:
            regions[-1] = (regions[-1][0], float(end))
        elif end - start >= _SHORTEST_SPEECH_S:
            regions.append((float(start), float(end)))
    return regions
