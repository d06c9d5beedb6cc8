"""One sound file on its way through Whisper: short clips whole, long ones chunk by chunk with checkpoints."""

from __future__ import annotations

import itertools
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from batch.media import language as languages
from batch.media.audio import Sound
from batch.workers.speech.hallucinations import is_noise, looped, without_loops
from batch.workers.speech.voice_activity import (
    Chunk,
    Chunks,
    Detector,
    EnergyDetector,
    Piece,
    Regions,
    SileroDetector,
    heard,
)
from batch.workers.speech.whisper import RATE, WINDOW, Aborted, Decoding, Samples, Segment, WhisperModel
from batch.workers.speech.word_timestamps import apart, words
from batch.workers.untyped_engine import UntypedWork as Work

LOOP_ENTROPY = 2.8
"""Entropy threshold with which a chunk of a long file is heard again when Whisper looped in it, unless the request names
one. At once it would be too strict: plain speech that repeats itself falls below it, and each fall costs two decodes."""

LONG_CONTEXT = 64
"""Most tokens of a chunk's earlier text that its later text is conditioned on in a long file, against loops too."""

SURE = 0.5
"""Probability from which a detected language holds for the rest of the file."""


class Transcription:
    """The state of one job. The model is this job's alone only between two calls of `Work.unit`: another job may run
    inside that call, so nothing is left in the model across it."""

    def __init__(
        self,
        model: WhisperModel,
        work: Work,
        how: Decoding,
        options: Mapping[str, Any],
        stop: threading.Event,
        vad: Path | None,
        guess: str | None,
    ) -> None:
        self._model, self._work, self._how, self._options = model, work, how, options
        self._stop, self._vad, self._guess = stop, vad, guess
        self._skip = max(0, int(options.get("offset_t", 0))) * RATE // 1000
        self._limit = max(0, int(options.get("duration", 0))) * RATE // 1000
        self._total: float | None = None
        self._step = 0
        self._resume = self._reached = 0
        self._sure = how.language != languages.AUTO
        self.segments: list[dict[str, Any]] = []
        self.language = "" if how.language == languages.AUTO else how.language
        self.shares: dict[str, float] = {}
        self.detected: str | None = None
        """The language, when it was detected and is sure."""
        self._fresh: list[dict[str, Any]] = []  # what the chunk in hand gave
        self.cut_off = False
        """Whether reading stopped before the file's end, as enough was heard."""

    def run(self, sound: Sound) -> None:
        for kept in self._work.checkpoints():
            self._take_up(kept)
        start = max(self._skip, self._resume)
        if sound.seconds is not None:
            left = max(0.0, sound.seconds - self._skip / RATE)
            self._total = min(left, self._limit / RATE) if self._limit else left
        blocks = self._scanned(self._bounded(sound.blocks(start), start), sound, start)
        first: list[Samples] = []
        length = 0
        for block in blocks:
            first.append(block)
            length += len(block)
            if length > WINDOW:
                break
        if length <= WINDOW and start == self._skip and not self._options.get("vad"):
            self._short(np.concatenate(first) if first else np.zeros(0, np.float32))
        else:
            # the first half minute goes in as one block, so that the noise floor is known from the start
            self._long(itertools.chain([np.concatenate(first)] if first else [], blocks), start)
        self.language = self.language or "en"

    def _short(self, samples: Samples) -> None:
        """A clip that fits one window goes to Whisper as it is, so that the answer is whisper.cpp's own."""
        detector = self._detector()
        try:
            worth = heard(samples, detector)
        finally:
            detector.close()
        if worth:
            self._chunk(Chunk((Piece(self._skip, samples),), 0), self._how)
        else:
            self._yield(self._skip)

    def _long(self, blocks: Iterable[Samples], start: int) -> None:
        how = self._how
        if "max_context" not in self._options and not how.prompt:
            how = replace(how, max_context=LONG_CONTEXT)
        detector = self._detector()
        try:
            chunks = Chunks(blocks, detector, start, self._rule())
            for chunk in chunks:
                chunks.give_back(self._chunk(chunk, how, once=True))
                self._checkpoint()
                if self._options.get("detect_language"):
                    self.cut_off = True
                    return
        finally:
            detector.close()

    def _chunk(self, chunk: Chunk, how: Decoding, *, once: bool = False) -> tuple[Piece, ...]:
        """Transcribe a chunk; gives the end of it that is to be heard again together with what follows (`once`)."""
        self._fresh = []
        joints = [] if how.no_timestamps else chunk.joints  # without times nothing tells what stands at one
        if joints:
            how = replace(how, token_timestamps=True)  # they tell on which side of a joint a word stands
        found, rest = self._decode(chunk, how, once)
        said = [part for segment in found for part in apart(segment, joints) if not is_noise(part.text)]
        for segment in without_loops(said, [s["text"] for s in self.segments[-2:]]):
            item = self._segment(segment, chunk)
            self._fresh.append(item)
            self.segments.append(item)
        self._resume = rest[0].start if rest else chunk.end
        for item in self._fresh:
            self._work.emit({"type": "segment", "segment": item})
        return rest

    def _decode(self, chunk: Chunk, how: Decoding, once: bool) -> tuple[list[Segment], tuple[Piece, ...]]:
        samples = chunk.samples
        again = once and "entropy_thold" not in self._options
        while True:
            self._stop.clear()  # before the yield point: a cancel that comes later is not lost
            threads = self._yield(chunk.start)
            try:
                if not self._sure:
                    found = self._decode_unknown(samples, how, threads, once)
                elif not self._options.get("detect_language"):
                    how = replace(how, language=self.language)
                    found = self._model.transcribe(samples, how, threads, self._stop.is_set, once=once)
                    if self._step == 0 and not self.shares:
                        self._note(self._model.detected(threads) if self._wants_shares else {})
                if self._options.get("detect_language"):
                    return [], ()  # nothing was transcribed, so the model's `left_off` is of another call
                if again and looped(found):
                    how, again = replace(how, entropy_thold=LOOP_ENTROPY), False
                    continue
                left = self._model.left_off
                return found, chunk.behind(left) if left is not None else ()
            except Aborted:
                continue  # `unit` ends the job if that was why; else the chunk is done again

    def _decode_unknown(self, samples: Samples, how: Decoding, threads: int, once: bool) -> list[Segment]:
        """Detect, then decode. Files mostly come in one language, so the last one is tried first: Whisper's look at the
        sound then serves both. A wrong guess is decoded again, so the answer is the same."""
        found: list[Segment] | None = None
        tried = None
        if self._guess in self._model.codes and not self._options.get("detect_language"):
            tried = self._guess
            found = self._model.transcribe(samples, replace(how, language=str(tried)), threads, self._stop.is_set, once=once)
            shares = self._model.detected(threads)
        else:
            shares = self._model.detect(samples, threads)
        code, share = next(iter(shares.items()))
        self._note(shares)
        self.language = self._guess = code
        if share >= SURE:
            self._sure, self.detected = True, code
        if self._options.get("detect_language"):
            return []
        if found is None or tried != code:
            found = self._model.transcribe(samples, replace(how, language=code), threads, self._stop.is_set, once=once)
        return found

    @property
    def _wants_shares(self) -> bool:
        return not self._options.get("no_language_probabilities", False)

    def _note(self, shares: Mapping[str, float]) -> None:
        if self._wants_shares:
            self.shares = {code: round(share, 6) for code, share in shares.items() if share > 0.001}

    def _segment(self, segment: Segment, chunk: Chunk) -> dict[str, Any]:
        start, end = chunk.times(segment.start, segment.end)
        raw = segment.text.encode()
        item: dict[str, Any] = {
            "id": len(self.segments),
            "seek": chunk.start * 100 // RATE,
            "start": round(start, 3),
            "end": round(end, 3),
            "text": segment.text,
            "tokens": [token.id for token in segment.tokens],
            "temperature": self._how.temperature,
            "avg_logprob": segment.avg_logprob,
            "compression_ratio": len(raw) / len(zlib.compress(raw)) if raw else 0.0,
            "no_speech_prob": segment.no_speech_prob,
        }
        if self._work.request.get("words"):
            item["words"] = []
            for word in words(segment.tokens):
                begins, ends = chunk.times(word.start, word.end)
                item["words"].append({"word": word.text, "start": round(begins, 3), "end": round(ends, 3)})
        elif self._options.get("token_timestamps"):
            item["words"] = []
            for token in segment.tokens:
                begins, ends = chunk.times(token.start, token.end)
                item["words"].append(
                    {
                        "word": token.text.decode("utf-8", "replace"),
                        "start": round(begins, 3),
                        "end": round(ends, 3),
                        "t_dtw": token.t_dtw,
                        "probability": token.p,
                    }
                )
        if segment.turn_next:
            item["speaker_turn_next"] = True
        return item

    def _checkpoint(self) -> None:
        self._work.checkpoint(
            self._step,
            {
                "segments": self._fresh,
                "language": self.language,
                "sure": self._sure,
                "shares": self.shares,
                "resume": self._resume,
            },
        )
        self._step += 1

    def _take_up(self, kept: Mapping[str, Any]) -> None:
        self.segments += kept["segments"]
        self.language, self._sure, self.shares = kept["language"], kept["sure"], dict(kept["shares"])
        self._resume = int(kept["resume"])
        self._step += 1

    def _bounded(self, blocks: Iterator[Samples], start: int) -> Iterator[Samples]:
        """The blocks up to the end that `duration` sets."""
        left = self._skip + self._limit - start if self._limit else None
        for block in blocks:
            if left is None:
                yield block
                continue
            yield block[:left]
            left -= len(block)
            if left <= 0:
                self.cut_off = True
                return

    def _scanned(self, blocks: Iterator[Samples], sound: Sound, start: int) -> Iterator[Samples]:
        """The blocks, with a yield point every minute: what is skipped and hours of silence never reach the model."""
        place, reached = start, 0
        for block in blocks:
            if len(block):
                yield block
            place += len(block)
            if sound.decoded - reached >= 60 * RATE:
                reached = sound.decoded
                self._yield(place)

    def _yield(self, place: int) -> int:
        """The yield point. Reading runs ahead of decoding where nobody speaks, so progress is the farther of the two."""
        self._reached = max(self._reached, place, self._resume, self._skip)
        return self._work.yield_point((self._reached - self._skip) / RATE, self._total, "seconds")

    def _detector(self) -> Detector:
        return SileroDetector(self._vad) if self._vad is not None else EnergyDetector()

    def _rule(self) -> Regions:
        given = self._options
        rule = Regions() if self._vad is not None else Regions(min_speech=RATE // 10)
        longest = float(given.get("vad_max_speech_duration_s") or WINDOW / RATE)
        return replace(
            rule,
            threshold=float(given.get("vad_threshold", rule.threshold)),
            min_speech=_samples(given, "vad_min_speech_duration_ms", rule.min_speech),
            min_silence=_samples(given, "vad_min_silence_duration_ms", rule.min_silence),
            pad=_samples(given, "vad_speech_pad_ms", rule.pad),
            longest=int(min(WINDOW, max(1.0, longest) * RATE)),
        )


def _samples(options: Mapping[str, Any], name: str, otherwise: int) -> int:
    return int(options[name]) * RATE // 1000 if name in options else otherwise
