"""Where in a stream of sound somebody speaks, packed into chunks of up to 30 s that are cut in silence."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from batch.errors import ModelProblem
from batch.workers.speech.whisper import RATE, WINDOW, Samples, library, listen_to_log

FRAME = 512
"""Samples a decision is made for (32 ms): what Silero was trained on."""

FLOOR_DB = -65.0
"""Frames quieter than this hold no speech, whatever stands around them."""

LOUD_DB = -38.0
"""Frames louder than this are never taken for silence by their energy alone."""

STEADY_DB = 2.5
"""Sound whose level stays within this is a noise."""

USUAL_PEAK = 0.3
"""Peak that softer sound is raised to before Silero hears it: unlike Whisper, it takes a far voice for none."""

MOST_GAIN = 100.0

PAUSE = RATE
"""Samples left out between two pieces from which on no sentence runs on over them."""

Scores = NDArray[np.float32]


class Detector(Protocol):
    def scores(self, frames: Samples) -> Scores:
        """Likelihood 0..1 of speech for each row of (n, FRAME) samples that follow the previous call's."""
        ...

    def close(self) -> None: ...


class EnergyDetector:
    """Tells sound from silence: what rises above the quietest tenth of the last half minute."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=30 * RATE // FRAME)

    def scores(self, frames: Samples) -> Scores:
        level = decibels(frames)
        self._recent.extend(level.tolist())
        floor = float(np.percentile(np.array(self._recent), 10))
        bar = min(max(floor + 6.0, FLOOR_DB), LOUD_DB)
        return (level > bar).astype(np.float32)

    def close(self) -> None:
        pass


class _VadParams(ctypes.Structure):
    _fields_ = (("n_threads", ctypes.c_int), ("use_gpu", ctypes.c_bool), ("gpu_device", ctypes.c_int))


class SileroDetector:
    """Silero VAD in whisper.cpp. It remembers what it heard, so every job has one of its own."""

    def __init__(self, path: Path) -> None:
        """Raises ModelProblem with a sentence that names the file."""
        if not path.is_file():
            raise ModelProblem(f"{path} is not there: fetch it, or leave stt.vad_model empty.")
        listen_to_log()
        library.whisper_vad_init_from_file_with_params.argtypes = [ctypes.c_char_p, _VadParams]
        library.whisper_vad_init_from_file_with_params.restype = ctypes.c_void_p
        library.whisper_vad_reset_state.argtypes = [ctypes.c_void_p]
        library.whisper_vad_reset_state.restype = None
        library.whisper_vad_detect_speech_no_reset.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
        library.whisper_vad_detect_speech_no_reset.restype = ctypes.c_bool
        library.whisper_vad_probs.argtypes = [ctypes.c_void_p]
        library.whisper_vad_probs.restype = ctypes.POINTER(ctypes.c_float)
        library.whisper_vad_free.argtypes = [ctypes.c_void_p]
        library.whisper_vad_free.restype = None
        # one thread: the model is tiny, and with more they wait for each other most of the time
        self._context = library.whisper_vad_init_from_file_with_params(str(path).encode(), _VadParams(1, False, 0))
        if not self._context:
            raise ModelProblem(f"{path} could not be loaded as a Silero VAD model in ggml format: fetch it again.")
        # A new context's memory is whatever was there, at times NaN for good: whisper.cpp clears it in its own call only.
        library.whisper_vad_reset_state(self._context)
        self._peak = 0.0  # of late

    def scores(self, frames: Samples) -> Scores:
        flat = np.ascontiguousarray(frames, np.float32).reshape(-1)
        if len(flat):
            fading = 0.5 ** (len(flat) / (60 * RATE))
            self._peak = max(float(np.abs(flat).max()), self._peak * fading)
        flat = flat * np.float32(min(MOST_GAIN, max(1.0, USUAL_PEAK / max(self._peak, 1e-9))))
        if not library.whisper_vad_detect_speech_no_reset(self._context, flat.ctypes.data, len(flat)):
            return np.ones(len(frames), np.float32)
        found: Scores = np.ctypeslib.as_array(library.whisper_vad_probs(self._context), (len(frames),)).copy()
        return found

    def close(self) -> None:
        if self._context:
            library.whisper_vad_free(self._context)
            self._context = None


@dataclass(frozen=True, slots=True)
class Piece:
    start: int
    """Its first sample's place in the file."""
    samples: Samples


@dataclass(frozen=True, slots=True)
class Chunk:
    """Up to 30 s of speech for one call; silence between its pieces is left out."""

    pieces: tuple[Piece, ...]
    margin: int
    """Samples of quiet that each piece may have at its ends."""

    @property
    def samples(self) -> Samples:
        return np.concatenate([piece.samples for piece in self.pieces])

    @property
    def start(self) -> int:
        return self.pieces[0].start

    @property
    def end(self) -> int:
        """Place in the file behind its last sample: where a restart goes on."""
        return self.pieces[-1].start + len(self.pieces[-1].samples)

    @property
    def joints(self) -> list[float]:
        """Seconds in the chunk where a longer pause was left out."""
        found, place = [], 0
        for piece, following in pairwise(self.pieces):
            place += len(piece.samples)
            if following.start - piece.start - len(piece.samples) >= PAUSE:
                found.append(place / RATE)
        return found

    def behind(self, seconds: float) -> tuple[Piece, ...]:
        """What stands behind so many seconds of the chunk."""
        left, found = round(seconds * RATE), []
        for piece in self.pieces:
            if left < len(piece.samples):
                found.append(Piece(piece.start + left, piece.samples[left:]))
            left = max(0, left - len(piece.samples))
        return tuple(found)

    def times(self, start: float, end: float) -> tuple[float, float]:
        """A segment's seconds in the chunk as seconds in the file."""
        first, last = start * RATE, max(start, end) * RATE
        offset = 0
        opened = closed = None
        for i, piece in enumerate(self.pieces):
            length = len(piece.samples)
            behind = offset + length
            final = i == len(self.pieces) - 1
            # a segment that only just touches a piece belongs to the next: its times are a few tenths off
            loose = 0 if final else min(2 * self.margin, length // 2)
            if opened is None and (first < behind - loose or final or (last <= behind and first < behind)):
                opened = piece.start + min(max(0.0, first - offset), length)
            loose = 0 if final else min(2 * self.margin, len(self.pieces[i + 1].samples) // 2)
            if opened is not None and closed is None and (last <= behind + loose or final):
                closed = piece.start + min(max(0.0, last - offset), length)
            offset = behind
        assert opened is not None and closed is not None
        return opened / RATE, max(opened, closed) / RATE


@dataclass(frozen=True, slots=True)
class Regions:
    """What counts as a region of speech."""

    threshold: float = 0.5
    min_speech: int = RATE // 4
    """Samples; shorter noises are dropped."""
    min_silence: int = 2 * RATE
    """Shorter pauses stay in, as with faster-whisper: without them Whisper mistakes words, and goes on for itself where a
    sentence was broken off."""
    pad: int = RATE * 4 // 10
    """Samples kept before and behind a region, where soft sounds hide."""
    longest: int = WINDOW


class Chunks:
    """Chunks of a stream; holds little more than one in memory."""

    def __init__(self, blocks: Iterable[Samples], detector: Detector, origin: int = 0, rule: Regions | None = None) -> None:
        """`origin`: the place of the stream's first sample."""
        self._blocks, self._detector, self._rule = blocks, detector, rule or Regions()
        self._rest: Samples = np.zeros(0, np.float32)  # less than a frame, not looked at yet
        self._sound: list[Samples] = []  # frames of the open region, or the last few before one
        self._level: list[float] = []
        self._place = origin  # of the first frame in _sound
        self._open = False
        self._spoken = 0  # frames of speech in the open region
        self._quiet = 0  # frames since the last of them
        self._pieces: list[Piece] = []
        self._filled = 0

    def __iter__(self) -> Iterator[Chunk]:
        for block in self._blocks:
            yield from self._feed(block)
        yield from self._finish()

    def give_back(self, pieces: tuple[Piece, ...]) -> None:
        """The end of the chunk that came last is to begin the next one. It must not be all of it."""
        self._pieces = list(pieces)
        self._filled = sum(len(piece.samples) for piece in pieces)

    def _feed(self, block: Samples) -> Iterator[Chunk]:
        data = np.concatenate([self._rest, block]) if len(self._rest) else block
        whole = len(data) // FRAME * FRAME
        self._rest = data[whole:].copy()
        if whole:
            frames = data[:whole].reshape(-1, FRAME)
            yield from self._take(frames, self._detector.scores(frames))

    def _finish(self) -> Iterator[Chunk]:
        if len(self._rest):
            last = np.zeros(FRAME, np.float32)
            last[: len(self._rest)] = self._rest
            yield from self._take(last[None], self._detector.scores(last[None]), len(self._rest))
        if self._open:
            yield from self._close()
        while self._pieces:
            yield from self._flush()

    def _take(self, frames: Samples, scores: Scores, real: int = FRAME) -> Iterator[Chunk]:
        rule = self._rule
        pad, silence = -(-rule.pad // FRAME), -(-rule.min_silence // FRAME)
        levels = decibels(frames)
        for frame, score, level in zip(frames, scores, levels, strict=True):
            self._sound.append(frame[:real].copy())
            self._level.append(float(level))
            bar = rule.threshold - 0.15 if self._open else rule.threshold
            if score >= bar:
                self._open = True
                self._spoken += 1
                self._quiet = 0
            elif self._open:
                self._quiet += 1
                if self._quiet >= max(silence, 2 * pad):
                    yield from self._close()
            elif len(self._sound) > pad:
                self._place += len(self._sound.pop(0))
                self._level.pop(0)
            kept = len(self._sound) - max(0, self._quiet - pad)
            if self._open and self._filled + kept * FRAME > rule.longest:
                yield from self._cut()

    def _close(self) -> Iterator[Chunk]:
        """The open region has ended: it becomes a piece, without the silence behind it."""
        pad = -(-self._rule.pad // FRAME)
        keep = len(self._sound) - max(0, self._quiet - pad)
        if self._spoken * FRAME >= self._rule.min_speech:
            yield from self._add(keep)
        else:
            self._drop(keep)
        while len(self._sound) > pad:
            self._drop(1)
        self._open, self._spoken, self._quiet = False, 0, 0

    def _cut(self) -> Iterator[Chunk]:
        """The chunk is full in the middle of a region: end it where it is quietest."""
        longest = self._rule.longest
        while self._filled and (self._filled >= longest // 2 or longest - self._filled < 5 * RATE):
            yield from self._flush()  # the region goes into the next chunk, whole if it ends soon
            if self._filled + len(self._sound) * FRAME <= longest:
                return
        room = (longest - self._filled) // FRAME
        at = quietest(np.array(self._level[:room], np.float32))
        yield from self._add(at)
        yield from self._flush()

    def _add(self, frames: int) -> Iterator[Chunk]:
        while self._filled and self._filled + frames * FRAME > self._rule.longest:
            yield from self._flush()
        piece = Piece(self._place, np.concatenate(self._sound[:frames]))
        self._drop(frames)
        self._pieces.append(piece)
        self._filled += len(piece.samples)

    def _drop(self, frames: int) -> None:
        self._place += sum(len(f) for f in self._sound[:frames])
        del self._sound[:frames], self._level[:frames]

    def _flush(self) -> Iterator[Chunk]:
        pieces, self._pieces, self._filled = tuple(self._pieces), [], 0
        if pieces and not all(steady(piece.samples) for piece in pieces):
            yield Chunk(pieces, self._rule.pad)


def decibels(frames: Samples) -> Scores:
    """Level of each row, in dB below full scale."""
    power = np.mean(np.square(frames, dtype=np.float32), axis=1)
    found: Scores = (10 * np.log10(np.maximum(power, 1e-12))).astype(np.float32)
    return found


def quietest(level: Scores) -> int:
    """Where to cut `level` (dB a frame): the middle of the longest pause of 160 ms or more in its last third, the later
    of two alike; the quietest frame there when there is none. Always at least 1."""
    first = max(1, len(level) * 2 // 3)
    tail = level[first:]
    if len(tail) == 0:
        return max(1, len(level))
    low, high = np.percentile(level, (10, 75))
    bar = max(float(min(low + 3.0, high - 10.0)), FLOOR_DB)
    best, at, run = 0, 0, 0
    for i, quiet in enumerate(tail <= bar):
        run = run + 1 if quiet else 0
        if run * FRAME >= RATE * 16 // 100 and run >= best:
            best, at = run, i - run // 2
    return first + (at if best else int(np.argmin(tail)))


def heard(samples: Samples, detector: Detector) -> bool:
    """Whether a short clip may hold speech at all; in doubt it does."""
    frames = np.zeros((-(-len(samples) // FRAME), FRAME), np.float32)
    frames.reshape(-1)[: len(samples)] = samples
    if len(frames) == 0 or float(decibels(frames).max()) < FLOOR_DB:
        return False
    if isinstance(detector, EnergyDetector):
        return not steady(samples)
    return float(detector.scores(frames).max()) >= 0.3


def steady(samples: Samples) -> bool:
    """Whether the sound is as loud all the time as only a hum or a hiss is; speech rises and falls by far more."""
    whole = len(samples) // FRAME * FRAME
    if whole < RATE:
        return False
    low, high = np.percentile(decibels(samples[:whole].reshape(-1, FRAME)), (5, 95))
    return bool(high - low < STEADY_DB)
