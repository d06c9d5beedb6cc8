"""Segments of a chunk as the transcript has them: times in the file, words or tokens with times, log probabilities."""

from __future__ import annotations

import zlib

from batch.media.sound.samples import SAMPLE_RATE
from batch.payloads.speech import TranscriptionPayload, TranscriptLogprob, TranscriptSegment, Word
from batch.workers.speech.chinese_script import ChineseScript
from batch.workers.speech.chunking import Chunk
from batch.workers.speech.whisper.decoding import Token
from batch.workers.speech.word_timestamps import TimedSegment, token_texts, wrap

LEAST_LENGTH_S = 0.02
"""Seconds that a segment lasts at least."""


class SegmentWriter:
    """Writes one job's segments as its request wants them."""

    def __init__(self, payload: TranscriptionPayload, temperature: float) -> None:
        options = payload.options
        self._wants_words, self._wants_logprobs = payload.words, payload.logprobs
        self._wants_tokens = bool(options.token_timestamps) and not options.no_timestamps
        self._max_chars, self._at_words = options.max_len or 0, bool(options.split_on_word)
        self._script = ChineseScript(options.language or "")
        self._temperature = temperature

    def wrapped(self, timed: TimedSegment) -> list[TimedSegment]:
        """The segment in parts of no more than `max_len` characters, where the request wants that."""
        return wrap(timed, self._max_chars, at_words=self._at_words) if self._max_chars else [timed]

    def write(self, timed: TimedSegment, chunk: Chunk, number: int) -> TranscriptSegment:
        """The segment as number so and so of the transcript."""
        segment = timed.segment
        if timed.words or timed.token_times:
            start, end = chunk.file_start(segment.start), chunk.file_end(segment.end)
        else:
            start, end = chunk.file_times(segment.start, segment.end)
        start, end = round(start, 3), round(max(end, start + LEAST_LENGTH_S), 3)
        text = self._script.convert(segment.text)
        raw = text.encode()
        words = None
        if self._wants_words:
            words = self._words(timed, chunk)
        elif self._wants_tokens:
            words = self._tokens(timed, chunk)
        return TranscriptSegment(
            id=number,
            seek=chunk.start * 100 // SAMPLE_RATE,
            start=start,
            end=end,
            text=text,
            tokens=[token.id for token in segment.tokens],
            temperature=self._temperature,
            avg_logprob=segment.avg_logprob,
            compression_ratio=len(raw) / len(zlib.compress(raw)) if raw else 0.0,
            no_speech_prob=segment.no_speech_prob,
            words=words,
            logprobs=[_logprob(token) for token in segment.tokens] if self._wants_logprobs else None,
            speaker_turn_next=True if segment.turn_next else None,
        )

    def _words(self, timed: TimedSegment, chunk: Chunk) -> list[Word]:
        texts = self._script.convert_parts([word.text for word in timed.words])
        times = [(chunk.file_start(word.start), chunk.file_end(word.end)) for word in timed.words]
        return [Word(word=text, start=start, end=end) for text, (start, end) in zip(texts, _rounded(times), strict=True)]

    def _tokens(self, timed: TimedSegment, chunk: Chunk) -> list[Word]:
        tokens = timed.segment.tokens
        texts = self._script.convert_parts(token_texts(tokens))
        times = [(chunk.file_start(start), chunk.file_end(end)) for start, end in timed.token_times]
        return [
            Word(word=text, start=start, end=end, probability=token.p, t_dtw=_attention_time(token, chunk))
            for text, token, (start, end) in zip(texts, tokens, _rounded(times), strict=True)
        ]


def _attention_time(token: Token, chunk: Chunk) -> float:
    """whisper.cpp's t_dtw: hundredths of a second in the file; -1 where the token was not aligned."""
    return -1 if token.attention_end is None else round(chunk.file_end(token.attention_end) * 100)


def _logprob(token: Token) -> TranscriptLogprob:
    return TranscriptLogprob(token=token.text.decode("utf-8", "replace"), bytes=list(token.text), logprob=token.plog)


def _rounded(times: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Times in milliseconds, in order, none without length."""
    rounded: list[tuple[float, float]] = []
    clock = 0.0
    for start, end in times:
        start = max(round(start, 3), clock)
        clock = max(round(end, 3), round(start + 0.001, 3))
        rounded.append((start, clock))
    return rounded
