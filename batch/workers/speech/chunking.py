"""A stream of sound as chunks of up to 30 s of speech, cut in silence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from batch.media.sound.samples import SAMPLE_RATE, Samples
from batch.payloads.speech import TranscriptionOptions
from batch.workers.speech.voice_activity import FLOOR_DB, FRAME_SAMPLES, Detector, Scores, decibels, is_steady
from batch.workers.speech.whisper.model import WINDOW_SAMPLES

PAUSE_SAMPLES = SAMPLE_RATE
"""Samples left out between two pieces from which on no sentence runs on over them."""

ALONE_SAMPLES = 10 * SAMPLE_RATE
"""Samples of speech between long pauses that cost no more in a chunk of their own, heard in a short context, than their share
of a whole window whose words are aligned, as they have to be where pauses were left out."""

OPEN_BONUS = 0.15
"""How much less than the threshold is enough while somebody speaks already."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the file, and how likely each of its frames is speech."""

    start: int
    """Its first sample's place in the file."""
    samples: Samples
    scores: Scores
    """One a frame of FRAME_SAMPLES; the last frame may be shorter."""

    @property
    def end(self) -> int:
        """The place in the file behind its last sample."""
        return self.start + len(self.samples)

    def behind(self, sample: int) -> Piece:
        """What stands behind so many of its samples."""
        return Piece(self.start + sample, self.samples[sample:], self.scores[sample // FRAME_SAMPLES :])


@dataclass(frozen=True, slots=True)
class Chunk:
    """Up to 30 s of speech for one call; silence between its pieces is left out."""

    pieces: tuple[Piece, ...]
    margin: int
    """Samples of quiet that each piece may have at its ends."""

    @property
    def samples(self) -> Samples:
        """All pieces, one behind the other."""
        return np.concatenate([piece.samples for piece in self.pieces])

    @property
    def start(self) -> int:
        """Place in the file of its first sample."""
        return self.pieces[0].start

    @property
    def end(self) -> int:
        """Place in the file behind its last sample: where a restart goes on."""
        return self.pieces[-1].end

    @property
    def joints(self) -> list[float]:
        """Seconds in the chunk where a longer pause was left out."""
        joints, place = [], 0
        for piece, following in pairwise(self.pieces):
            place += len(piece.samples)
            if following.start - piece.end >= PAUSE_SAMPLES:
                joints.append(place / SAMPLE_RATE)
        return joints

    def behind(self, seconds: float) -> tuple[Piece, ...]:
        """What stands behind so many seconds of the chunk."""
        samples_left, rest = round(seconds * SAMPLE_RATE), []
        for piece in self.pieces:
            if samples_left < len(piece.samples):
                rest.append(piece.behind(samples_left))
            samples_left = max(0, samples_left - len(piece.samples))
        return tuple(rest)

    def file_start(self, seconds: float) -> float:
        """A time in the chunk at which something starts, as seconds in the file: at a joint it is behind the pause."""
        return self._file_time(seconds, is_start=True)

    def file_end(self, seconds: float) -> float:
        """A time in the chunk at which something ends, as seconds in the file: at a joint it is before the pause."""
        return self._file_time(seconds, is_start=False)

    def _file_time(self, seconds: float, *, is_start: bool) -> float:
        place = max(0, round(seconds * SAMPLE_RATE))
        for piece in self.pieces[:-1]:
            if place < len(piece.samples) or (place == len(piece.samples) and not is_start):
                return (piece.start + place) / SAMPLE_RATE
            place -= len(piece.samples)
        last = self.pieces[-1]
        return (last.start + min(place, len(last.samples))) / SAMPLE_RATE

    def file_times(self, start: float, end: float) -> tuple[float, float]:
        """The seconds in the file of what lies at these seconds of the chunk by a clock that is some tenths off: what
        only just touches a piece belongs to the next."""
        first, last = start * SAMPLE_RATE, max(start, end) * SAMPLE_RATE
        offset = 0
        opened = closed = None
        for i, piece in enumerate(self.pieces):
            length = len(piece.samples)
            behind = offset + length
            is_last = i == len(self.pieces) - 1
            loose = 0 if is_last else min(2 * self.margin, length // 2)
            if opened is None and (first < behind - loose or is_last or (last <= behind and first < behind)):
                opened = piece.start + min(max(0.0, first - offset), length)
            loose = 0 if is_last else min(2 * self.margin, len(self.pieces[i + 1].samples) // 2)
            if opened is not None and closed is None and (last <= behind + loose or is_last):
                closed = piece.start + min(max(0.0, last - offset), length)
            offset = behind
        assert opened is not None and closed is not None
        return opened / SAMPLE_RATE, max(opened, closed) / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class ChunkingRule:
    """What counts as a region of speech; lengths in samples."""

    threshold: float = 0.5
    """Score from which a frame is speech."""
    min_speech: int = SAMPLE_RATE // 4
    """Shorter noises are dropped."""
    min_silence: int = 2 * SAMPLE_RATE
    """Shorter pauses stay in, as with faster-whisper: without them Whisper mistakes words, and goes on for itself where a
    sentence was broken off."""
    pad: int = SAMPLE_RATE * 4 // 10
    """Kept before and behind a region, where soft sounds hide."""
    longest: int = WINDOW_SAMPLES
    """Of a chunk."""
    alone: int = WINDOW_SAMPLES
    """A stretch of speech so long, with a long pause behind it, is a chunk of its own."""

    @classmethod
    def of(cls, options: TranscriptionOptions, is_energy: bool, may_stand_alone: bool) -> ChunkingRule:
        """What a request's options ask for. `is_energy`: the scores are an EnergyDetector's; `may_stand_alone`: a chunk of
        one stretch of speech costs less than its share of one that is joined over pauses."""
        rule = cls(min_speech=SAMPLE_RATE // 10) if is_energy else cls()
        longest = options.vad_max_speech_duration_s or WINDOW_SAMPLES / SAMPLE_RATE
        return cls(
            threshold=rule.threshold if options.vad_threshold is None else options.vad_threshold,
            min_speech=_samples(options.vad_min_speech_duration_ms, rule.min_speech),
            min_silence=_samples(options.vad_min_silence_duration_ms, rule.min_silence),
            pad=_samples(options.vad_speech_pad_ms, rule.pad),
            longest=int(min(WINDOW_SAMPLES, max(1.0, longest) * SAMPLE_RATE)),
            alone=ALONE_SAMPLES if may_stand_alone else rule.alone,
        )


def _samples(milliseconds: int | None, otherwise: int) -> int:
    return otherwise if milliseconds is None else milliseconds * SAMPLE_RATE // 1000


class Chunks:
    """Chunks of a stream; holds little more than one in memory."""

    def __init__(
        self, blocks: Iterable[Samples], detector: Detector, origin: int = 0, rule: ChunkingRule | None = None
    ) -> None:
        """`origin`: the place of the stream's first sample."""
        self._blocks, self._detector, self._rule = blocks, detector, rule or ChunkingRule()
        self._rest: Samples = np.zeros(0, np.float32)  # less than a frame, not looked at yet
        self._sound: list[Samples] = []  # frames of the open region, or the last few before one
        self._level: list[float] = []  # of each, in dB
        self._scores: list[float] = []  # of each
        self._place = origin  # of the first frame in _sound
        self._is_open = False
        self._speech_frames = 0  # frames of speech in the open region
        self._quiet = 0  # frames since the last of them
        self._pieces: list[Piece] = []
        self._filled = 0

    def __iter__(self) -> Iterator[Chunk]:
        for block in self._blocks:
            yield from self._feed(block)
        yield from self._finish()

    def give_back(self, pieces: tuple[Piece, ...]) -> None:
        """The end of the chunk that came last is to begin the next one, if anybody speaks there. It must not be all of it."""
        bar = self._rule.threshold - OPEN_BONUS
        runs_on = bool(pieces) and self._is_open and pieces[-1].end == self._place
        least = 1 if runs_on else self._rule.min_speech  # of speech that was cut, so little may be the word it begins with
        if sum(int((piece.scores >= bar).sum()) for piece in pieces) * FRAME_SAMPLES < least:
            return
        self._pieces = list(pieces)
        self._filled = sum(len(piece.samples) for piece in pieces)

    def _feed(self, block: Samples) -> Iterator[Chunk]:
        data = np.concatenate([self._rest, block]) if len(self._rest) else block
        whole = len(data) // FRAME_SAMPLES * FRAME_SAMPLES
        self._rest = data[whole:].copy()
        if whole:
            frames = data[:whole].reshape(-1, FRAME_SAMPLES)
            yield from self._take(frames, self._detector.scores(frames))

    def _finish(self) -> Iterator[Chunk]:
        if len(self._rest):
            last = np.zeros(FRAME_SAMPLES, np.float32)
            last[: len(self._rest)] = self._rest
            yield from self._take(last[None], self._detector.scores(last[None]), len(self._rest))
        if self._is_open:
            yield from self._close()
        while self._pieces:
            yield from self._flush()

    def _take(self, frames: Samples, scores: Scores, real: int = FRAME_SAMPLES) -> Iterator[Chunk]:
        rule = self._rule
        pad, silence = -(-rule.pad // FRAME_SAMPLES), -(-rule.min_silence // FRAME_SAMPLES)
        levels = decibels(frames)
        for frame, score, level in zip(frames, scores, levels, strict=True):
            self._sound.append(frame[:real].copy())
            self._level.append(float(level))
            self._scores.append(float(score))
            bar = rule.threshold - OPEN_BONUS if self._is_open else rule.threshold
            if score >= bar:
                self._is_open = True
                self._speech_frames += 1
                self._quiet = 0
            elif self._is_open:
                self._quiet += 1
                if self._quiet >= max(silence, 2 * pad):
                    yield from self._close()
            elif len(self._sound) > pad:
                self._drop(1)
            rest = len(self._sound) - max(0, self._quiet - pad)
            if self._is_open and self._filled + rest * FRAME_SAMPLES > rule.longest:
                yield from self._cut()

    def _close(self) -> Iterator[Chunk]:
        """The open region has ended: it becomes a piece, without the silence behind it."""
        pad = -(-self._rule.pad // FRAME_SAMPLES)
        keep = len(self._sound) - max(0, self._quiet - pad)
        if self._speech_frames * FRAME_SAMPLES >= self._rule.min_speech:
            yield from self._add(keep)
        else:
            self._drop(keep)
        while len(self._sound) > pad:
            self._drop(1)
        self._is_open, self._speech_frames, self._quiet = False, 0, 0

    def _cut(self) -> Iterator[Chunk]:
        """The chunk is full in the middle of a region: end it where it is quietest."""
        longest = self._rule.longest
        while self._filled and (self._filled >= longest // 2 or longest - self._filled < 5 * SAMPLE_RATE or self._stands_alone):
            yield from self._flush()  # the region goes into the next chunk, whole if it ends soon
            if self._filled + len(self._sound) * FRAME_SAMPLES <= longest:
                return
        room = (longest - self._filled) // FRAME_SAMPLES
        at = quietest_frame(np.array(self._level[:room], np.float32))
        yield from self._add(at)
        yield from self._flush()

    def _add(self, frames: int) -> Iterator[Chunk]:
        while self._filled and (self._filled + frames * FRAME_SAMPLES > self._rule.longest or self._stands_alone):
            yield from self._flush()
        piece = Piece(self._place, np.concatenate(self._sound[:frames]), np.array(self._scores[:frames], np.float32))
        self._drop(frames)
        self._pieces.append(piece)
        self._filled += len(piece.samples)

    @property
    def _stands_alone(self) -> bool:
        """Whether the chunk is one long stretch of speech, with a long pause before the open region."""
        return (
            self._filled >= self._rule.alone
            and self._place - self._pieces[-1].end >= PAUSE_SAMPLES
            and not Chunk(tuple(self._pieces), self._rule.pad).joints
        )

    def _drop(self, frames: int) -> None:
        self._place += sum(len(f) for f in self._sound[:frames])
        del self._sound[:frames], self._level[:frames], self._scores[:frames]

    def _flush(self) -> Iterator[Chunk]:
        pieces, self._pieces, self._filled = tuple(self._pieces), [], 0
        if pieces and not all(is_steady(piece.samples) for piece in pieces):
            yield Chunk(pieces, self._rule.pad)


def quietest_frame(level: Scores) -> int:
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
        if run * FRAME_SAMPLES >= SAMPLE_RATE * 16 // 100 and run >= best:
            best, at = run, i - run // 2
    return first + (at if best else int(np.argmin(tail)))
