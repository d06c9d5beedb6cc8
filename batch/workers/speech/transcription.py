"""One sound file on its way through Whisper: short clips whole, long ones chunk by chunk with checkpoints."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol

import msgspec
import numpy as np

from batch.media import language as languages
from batch.media.decoder.process import SoundStream
from batch.media.sound.samples import SAMPLE_RATE, Samples
from batch.payloads.events import SegmentEnded
from batch.payloads.speech import TranscriptionPayload, TranscriptSegment
from batch.workers.engine import OwnWork
from batch.workers.speech.audio_context import ShortContexts
from batch.workers.speech.chunking import Chunk, ChunkingRule, Chunks, Piece
from batch.workers.speech.hallucinations import may_loop, without_loops, without_noises
from batch.workers.speech.speech_activity import SpeechActivity, longest_pause
from batch.workers.speech.transcript_segments import SegmentWriter
from batch.workers.speech.voice_activity import Detector, EnergyDetector, frames_of, may_hold_speech
from batch.workers.speech.whisper.decoding import DecodedSegment, Decoding
from batch.workers.speech.whisper.model import WINDOW_SAMPLES, Aborted, WhisperModel
from batch.workers.speech.word_timestamps import TimedSegment, split_at_pauses, time_words

LOOP_ENTROPY = 2.8
"""Entropy threshold with which a chunk is heard again when Whisper may have looped in it, unless the request names one.
At once it would be too strict: plain speech that repeats itself falls below it, and each fall costs two decodes."""

LONG_FILE_CONTEXT_TOKENS = 64
"""Most tokens of a chunk's earlier text that its later text is conditioned on in a long file, against loops too."""

SURE_PROBABILITY = 0.5
"""Probability from which a detected language holds for the rest of the file."""

PAUSE_S = 2.0
"""Seconds of silence that no segment runs on over."""

EDGE_SLACK_S = 0.5
"""Seconds of silence at its edges that Whisper's own time stamps may give a segment."""

PADDED_EDGE_SLACK_S = 0.1
"""The same where silence was kept at the edges of a chunk, which Whisper takes for its speech's."""

SKIPPED_STEP_S = 60
"""Seconds of sound that is only read, or not even that, between two yield points."""

WAIT_STEP_S = 1.0
"""Seconds of waiting for the decoder between two yield points."""


class TranscriptCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What a chunk gave, and where the next one begins."""

    segments: list[TranscriptSegment]
    language: str
    sure: bool
    """Whether the language is that of the whole file."""
    shares: dict[str, float]
    resume: int
    """Sample behind what was transcribed."""
    whole_windows: int = 0
    """Chunks to come that are heard in the whole window at once, as one before was doubtful."""


class DetectorFactory(Protocol):
    """Gives a new voice activity detector for a job."""

    def __call__(self) -> Detector: ...


class Transcription:
    """The state of one job. The model is this job's alone only between two calls of `Work.yield_point`: another job may run
    inside that call, so nothing is left in the model across it."""

    def __init__(
        self,
        model: WhisperModel,
        work: OwnWork,
        payload: TranscriptionPayload,
        decoding: Decoding,
        stop: threading.Event,
        new_detector: DetectorFactory,
        guess: str | None,
    ) -> None:
        """`guess`: the language that the last file was in; it costs time when it is wrong, and nothing else."""
        self._model, self._work, self._decoding, self._options = model, work, decoding, payload.options
        self._stop, self._new_detector, self._guess = stop, new_detector, guess
        self._wants_times = payload.words or bool(self._options.token_timestamps) or bool(self._options.max_len)
        self._skip = (self._options.offset_t or 0) * SAMPLE_RATE // 1000
        self._limit = (self._options.duration or 0) * SAMPLE_RATE // 1000
        self._total_s: float | None = None
        self._step = 0
        self._resume = self._reached = 0
        self._yielded_at = time.monotonic()
        self._is_sure = decoding.language != languages.AUTO
        self._candidates = [code for code in self._options.candidate_languages if code in model.codes]
        self._contexts = ShortContexts(model)
        self._writer = SegmentWriter(payload, decoding.temperature)
        self.segments: list[TranscriptSegment] = []
        self.language = "" if decoding.language == languages.AUTO else decoding.language
        """Whisper's code; empty while nobody has spoken."""
        self.shares: dict[str, float] = {}
        """Probability of each language, when the request wants them."""
        self.detected: str | None = None
        """The language, when it was detected and is sure."""
        self.is_cut_off = False
        """Whether reading stopped before the file's end, as enough was heard."""

    @property
    def start(self) -> int:
        """The sample at which reading has to begin, once `resume` was called."""
        return max(self._skip, self._resume)

    def resume(self) -> None:
        """Take up what earlier attempts have finished."""
        for checkpoint in self._work.checkpoints(TranscriptCheckpoint):
            self.segments += checkpoint.segments
            self.language, self._is_sure, self.shares = checkpoint.language, checkpoint.sure, dict(checkpoint.shares)
            self._resume, self._contexts.whole_windows = checkpoint.resume, checkpoint.whole_windows
            self._step += 1

    def run(self, sound: SoundStream) -> None:
        """Transcribe the sound, which skips what is before `start`."""
        start = self.start
        if sound.seconds is not None:
            seconds_left = max(0.0, sound.seconds - self._skip / SAMPLE_RATE)
            self._total_s = min(seconds_left, self._limit / SAMPLE_RATE) if self._limit else seconds_left
        blocks = self._with_yield_points(self._bounded(sound.blocks(), start), sound, start)
        first: list[Samples] = []
        length = 0
        for block in blocks:
            first.append(block)
            length += len(block)
            if length > WINDOW_SAMPLES:
                break
        if length <= WINDOW_SAMPLES and start == self._skip and not self._options.vad:
            self._transcribe_clip(np.concatenate(first) if first else np.zeros(0, np.float32))
        else:
            # the first half minute goes in as one block, so that the noise floor is known from the start
            self._transcribe_long(itertools.chain([np.concatenate(first)] if first else [], blocks), start)

    def _transcribe_clip(self, samples: Samples) -> None:
        """A clip that fits one window goes to Whisper as it is, so that the answer is whisper.cpp's own."""
        if len(samples) == 0:
            self._yield(self._skip)
            return
        detector = self._new_detector()
        try:
            scores = detector.scores(frames_of(samples))
        finally:
            detector.close()
        if may_hold_speech(samples, scores, isinstance(detector, EnergyDetector)):
            self._transcribe_chunk(Chunk((Piece(self._skip, samples, scores),), 0), self._decoding)
        else:
            self._yield(self._skip)

    def _transcribe_long(self, blocks: Iterable[Samples], start: int) -> None:
        decoding = self._decoding
        if self._options.max_context is None and not decoding.prompt:
            decoding = replace(decoding, max_context=LONG_FILE_CONTEXT_TOKENS)
        detector = self._new_detector()
        try:
            rule = ChunkingRule.of(self._options, isinstance(detector, EnergyDetector), self._may_stand_alone)
            chunks = Chunks(blocks, detector, start, rule)
            for chunk in chunks:
                rest, fresh = self._transcribe_chunk(chunk, decoding, once=True)
                chunks.give_back(rest)
                self._save(fresh)
                if self._options.detect_language:
                    self.is_cut_off = True
                    return
        finally:
            detector.close()

    @property
    def _may_stand_alone(self) -> bool:
        """Whether long stretches of speech are to be chunks of their own: where that spares aligning their words."""
        has_short_contexts = self._options.audio_ctx is None and self._contexts.are_used
        return has_short_contexts and not self._wants_times and not self._decoding.no_timestamps

    def _transcribe_chunk(
        self, chunk: Chunk, decoding: Decoding, *, once: bool = False
    ) -> tuple[tuple[Piece, ...], list[TranscriptSegment]]:
        """Transcribe a chunk. Returns the end of it that is to be heard again together with what follows (`once`), and
        its segments."""
        activity = SpeechActivity(chunk.samples, np.concatenate([piece.scores for piece in chunk.pieces]))
        has_pause = bool(chunk.joints) or longest_pause(activity.regions) >= PAUSE_S
        if (self._wants_times or has_pause) and not decoding.no_timestamps:
            decoding = replace(decoding, align=True)
        segments, rest = self._decode(chunk, decoding, once)
        segments = without_noises(segments, activity)
        segments = without_loops(segments, activity, [segment.text for segment in self.segments[-2:]])
        if not segments and not self.segments and not self._options.detect_language:
            self._forget_language()  # what was heard was no speech, so it is in no language
        fresh = [
            self._writer.write(placed, chunk, len(self.segments) + i)
            for i, placed in enumerate(self._placed(segments, chunk, activity, decoding))
        ]
        self.segments += fresh
        self._resume = rest[0].start if rest else chunk.end
        for segment in fresh:
            self._work.emit(SegmentEnded(segment=segment))
        return rest, fresh

    def _placed(
        self, segments: list[DecodedSegment], chunk: Chunk, activity: SpeechActivity, decoding: Decoding
    ) -> list[TimedSegment]:
        """The segments where speech is: by their words' times, or by Whisper's own brought to the speech they cover."""
        if not decoding.align:
            placed = []
            edge_s = PADDED_EDGE_SLACK_S if chunk.margin else EDGE_SLACK_S
            for i, segment in enumerate(segments):
                start, end = segment.start, segment.end
                if not decoding.no_timestamps:
                    slack_s = EDGE_SLACK_S if i else edge_s, EDGE_SLACK_S if i < len(segments) - 1 else edge_s
                    start, end = activity.trimmed(start, end, *slack_s)
                placed.append(TimedSegment(replace(segment, start=start, end=end), (), ()))
            return placed
        lags_s = self._model.heads.lags_s if self._model.heads is not None else (0.0,)
        timed = time_words(segments, activity, chunk.joints, lags_s)
        parts = [part for one in timed for part in split_at_pauses(one, PAUSE_S, chunk.joints)]
        return [part for one in parts for part in self._writer.wrapped(one)]

    def _decode(self, chunk: Chunk, decoding: Decoding, once: bool) -> tuple[list[DecodedSegment], tuple[Piece, ...]]:
        samples = chunk.samples
        may_hear_again = self._options.entropy_thold is None and not decoding.no_timestamps
        is_again = False
        while True:
            self._stop.clear()  # before the yield point: a cancel that comes later is not lost
            threads = self._yield(chunk.start)
            try:
                if not self._is_sure:
                    segments = self._decode_in_unknown_language(samples, decoding, threads, once)
                elif not self._options.detect_language:
                    decoding = replace(decoding, language=self.language)
                    is_short = not is_again and self._options.audio_ctx is None
                    hear = self._contexts.transcribe if is_short else self._model.transcribe
                    segments = hear(samples, decoding, threads, self._stop.is_set, once=once)
                    if self._step == 0 and not self.shares:
                        self._note(self._model.transcribed_language(threads) if self._wants_shares else {})
                if self._options.detect_language:
                    return [], ()  # nothing was transcribed, so the model's `left_off` is of another call
                if may_hear_again and may_loop(segments):
                    decoding = replace(decoding, entropy_thold=LOOP_ENTROPY, align=True)
                    may_hear_again, is_again = False, True
                    continue
                left_off = self._model.left_off
                return segments, chunk.behind(left_off) if left_off is not None else ()
            except Aborted:
                continue  # the yield point ends the job if that was why; else the chunk is done again

    def _decode_in_unknown_language(
        self, samples: Samples, decoding: Decoding, threads: int, once: bool
    ) -> list[DecodedSegment]:
        """Detect, then decode. Files mostly come in one language, so the last one is tried first: Whisper's look at the
        sound then serves both. A wrong guess is decoded again, so the answer is the same."""

        def transcribe(language: str) -> list[DecodedSegment]:
            said_in = replace(decoding, language=language)
            return self._model.transcribe(samples, said_in, threads, self._stop.is_set, once=once)

        segments: list[DecodedSegment] | None = None
        guessed_language = None
        if self._guess in self._model.codes and not self._options.detect_language:
            guessed_language = str(self._guess)
            segments = transcribe(guessed_language)
            shares = self._model.transcribed_language(threads)
        else:
            shares = self._model.detect_language(samples, threads)
        code = next(code for code in shares if not self._candidates or code in self._candidates)
        self._note(shares)
        self.language = self._guess = code
        if shares[code] >= SURE_PROBABILITY or len(self._candidates) == 1:
            self._is_sure, self.detected = True, code
        if self._options.detect_language:
            return []
        return segments if segments is not None and guessed_language == code else transcribe(code)

    def _forget_language(self) -> None:
        self.shares, self.detected = {}, None
        if self._decoding.language == languages.AUTO:
            self.language, self._is_sure = "", False

    @property
    def _wants_shares(self) -> bool:
        return not self._options.no_language_probabilities

    def _note(self, shares: Mapping[str, float]) -> None:
        if self._wants_shares:
            self.shares = {code: round(share, 6) for code, share in shares.items() if share > 0.001}

    def _save(self, fresh: list[TranscriptSegment]) -> None:
        checkpoint = TranscriptCheckpoint(
            segments=fresh,
            language=self.language,
            sure=self._is_sure,
            shares=self.shares,
            resume=self._resume,
            whole_windows=self._contexts.whole_windows,
        )
        self._work.checkpoint(self._step, checkpoint)
        self._step += 1

    def _bounded(self, blocks: Iterator[Samples], start: int) -> Iterator[Samples]:
        """The blocks up to the end that `duration` sets."""
        samples_left = self._skip + self._limit - start if self._limit else None
        for block in blocks:
            if samples_left is None:
                yield block
                continue
            yield block[:samples_left]
            samples_left -= len(block)
            if samples_left <= 0:
                self.is_cut_off = True
                return

    def _with_yield_points(self, blocks: Iterator[Samples], sound: SoundStream, start: int) -> Iterator[Samples]:
        """The blocks, with yield points where reading takes long: what is skipped, hours of silence, and files that are
        slow to decode never reach the model."""
        place, reached = start, 0
        for block in blocks:
            if len(block):
                yield block
            place += len(block)
            is_waiting = len(block) == 0 and time.monotonic() - self._yielded_at >= WAIT_STEP_S
            if is_waiting or sound.decoded - reached >= SKIPPED_STEP_S * SAMPLE_RATE:
                reached = sound.decoded
                self._yield(place)

    def _yield(self, place: int) -> int:
        """The yield point. Reading runs ahead of decoding where nobody speaks, so progress is the farther of the two."""
        self._reached = max(self._reached, place, self._resume, self._skip)
        threads = self._work.yield_point((self._reached - self._skip) / SAMPLE_RATE, self._total_s, "seconds")
        self._yielded_at = time.monotonic()
        return threads
