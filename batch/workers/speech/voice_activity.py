"""Voice activity detection: how likely it is, every 32 ms, that somebody speaks."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from batch.errors import ModelProblem
from batch.media.sound.samples import SAMPLE_RATE, Samples
from batch.workers.speech.whisper.library import VadParams, hook_log, library

FRAME_SAMPLES = 512
"""Samples a decision is made for (32 ms): what Silero was trained on."""

FLOOR_DB = -65.0
"""Frames quieter than this hold no speech, whatever stands around them."""

LOUD_DB = -38.0
"""Frames louder than this are never taken for silence by their energy alone."""

STEADY_DB = 2.5
"""Sound whose level stays within this is a noise."""

TARGET_PEAK = 0.3
"""Peak that softer sound is raised to before Silero hears it: unlike Whisper, it takes a far voice for none."""

MAX_GAIN = 100.0

LEAST_SPEECH_SCORE = 0.3
"""A clip in which Silero gives no frame so much holds no speech."""

Scores = NDArray[np.float32]
"""Likelihood 0..1 of speech, one a frame."""


class Detector(Protocol):
    """Hears one stream from its start to its end."""

    def scores(self, frames: Samples) -> Scores:
        """Likelihood 0..1 of speech for each row of (n, FRAME_SAMPLES) samples that follow the previous call's."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


class EnergyDetector:
    """Tells sound from silence: what rises above the quietest tenth of the last half minute."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=30 * SAMPLE_RATE // FRAME_SAMPLES)

    def scores(self, frames: Samples) -> Scores:
        """1 for each row of (n, FRAME_SAMPLES) that is louder than the quiet of late, else 0."""
        level = decibels(frames)
        self._recent.extend(level.tolist())
        floor = float(np.percentile(np.array(self._recent), 10))
        bar = min(max(floor + 6.0, FLOOR_DB), LOUD_DB)
        return (level > bar).astype(np.float32)

    def close(self) -> None:
        """Nothing is held."""


class SileroDetector:
    """Silero VAD in whisper.cpp. It remembers what it heard, so every job has one of its own."""

    def __init__(self, path: Path) -> None:
        """Raises ModelProblem with a sentence that names the file."""
        if not path.is_file():
            raise ModelProblem(f"{path} is not there: fetch it, or leave stt.vad_model empty.")
        hook_log()
        # one thread: the model is tiny, and with more they wait for each other most of the time
        self._context = library.whisper_vad_init_from_file_with_params(str(path).encode(), VadParams(1, False, 0))
        if not self._context:
            raise ModelProblem(f"{path} could not be loaded as a Silero VAD model in ggml format: fetch it again.")
        # A new context's memory is whatever was there, at times NaN for good: whisper.cpp clears it in its own call only.
        library.whisper_vad_reset_state(self._context)
        self._peak = 0.0  # of the last minutes

    def scores(self, frames: Samples) -> Scores:
        """Silero's probability of speech for each row of (n, FRAME_SAMPLES) samples."""
        flat = np.ascontiguousarray(frames, np.float32).reshape(-1)
        if len(flat):
            fading = 0.5 ** (len(flat) / (60 * SAMPLE_RATE))
            self._peak = max(float(np.abs(flat).max()), self._peak * fading)
        flat = flat * np.float32(min(MAX_GAIN, max(1.0, TARGET_PEAK / max(self._peak, 1e-9))))
        if not library.whisper_vad_detect_speech_no_reset(self._context, flat.ctypes.data, len(flat)):
            return np.ones(len(frames), np.float32)
        scores: Scores = np.ctypeslib.as_array(library.whisper_vad_probs(self._context), (len(frames),)).copy()
        return scores

    def close(self) -> None:
        """Free the model."""
        if self._context:
            library.whisper_vad_free(self._context)
            self._context = None


def decibels(frames: Samples) -> Scores:
    """Level of each row, in dB below full scale."""
    power = np.mean(np.square(frames, dtype=np.float32), axis=1)
    levels: Scores = (10 * np.log10(np.maximum(power, 1e-12))).astype(np.float32)
    return levels


def may_hold_speech(samples: Samples, scores: Scores, is_energy: bool) -> bool:
    """Whether a short clip, with its frames' scores, may hold speech at all; in doubt it does.

    `is_energy`: the scores are an EnergyDetector's, which takes any sound for speech.
    """
    frames = frames_of(samples)
    if len(frames) == 0 or float(decibels(frames).max()) < FLOOR_DB:
        return False
    return not is_steady(samples) if is_energy else float(scores.max()) >= LEAST_SPEECH_SCORE


def frames_of(samples: Samples) -> Samples:
    """The samples as rows of FRAME_SAMPLES, the last one filled up with silence."""
    frames = np.zeros((-(-len(samples) // FRAME_SAMPLES), FRAME_SAMPLES), np.float32)
    frames.reshape(-1)[: len(samples)] = samples
    return frames


def is_steady(samples: Samples) -> bool:
    """Whether the sound is as loud all the time as only a hum or a hiss is; speech rises and falls by far more."""
    whole = len(samples) // FRAME_SAMPLES * FRAME_SAMPLES
    if whole < SAMPLE_RATE:
        return False
    low, high = np.percentile(decibels(samples[:whole].reshape(-1, FRAME_SAMPLES)), (5, 95))
    return bool(high - low < STEADY_DB)
