"""batch/workers/speech/chunking.py: chunks of a stream, cut in silence, with times in the file."""

from __future__ import annotations

import itertools

import numpy as np

from batch.media.sound.samples import SAMPLE_RATE as RATE
from batch.workers.speech.chunking import Chunk, ChunkingRule, Chunks, Piece, quietest_frame
from batch.workers.speech.voice_activity import FRAME_SAMPLES, EnergyDetector, frames_of
from batch.workers.speech.whisper.model import WINDOW_SAMPLES
from sounds import Samples, silence


def _piece(start_s: float, seconds: float) -> Piece:
    samples = silence(seconds)
    return Piece(round(start_s * RATE), samples, np.zeros(len(frames_of(samples)), np.float32))


def test_chunks_are_at_most_a_window_and_lose_no_loud_sample() -> None:
    rng = np.random.default_rng(2)
    parts, marks = [], []
    place = 0
    for _ in range(20):
        loud = rng.normal(0, 0.1, int(rng.uniform(0.4, 45) * RATE)).astype(np.float32)
        loud *= 0.2 + np.abs(np.sin(np.arange(len(loud)) / RATE * 9))  # syllables
        quiet = silence(rng.uniform(0.2, 40))
        marks.append((place, place + len(loud)))
        parts += [loud, quiet]
        place += len(loud) + len(quiet)
    sound = np.concatenate(parts).astype(np.float32)
    found = list(Chunks((sound[i : i + RATE] for i in range(0, len(sound), RATE)), EnergyDetector()))
    covered = np.zeros(len(sound), bool)
    for chunk in found:
        assert len(chunk.samples) <= WINDOW_SAMPLES
        for piece in chunk.pieces:
            end = piece.start + len(piece.samples)
            assert np.array_equal(piece.samples, sound[piece.start : end])
            assert len(piece.scores) == -(-len(piece.samples) // FRAME_SAMPLES)
            assert not covered[piece.start : end].any(), "nothing is heard twice"
            covered[piece.start : end] = True
    for start, end in marks:
        assert covered[start:end].mean() > 0.99
    assert covered.mean() < 0.9, "silence is left out"
    assert all(a.end <= b.start for a, b in itertools.pairwise(found))


def test_what_a_chunk_gives_back_begins_the_next_one_and_nothing_is_lost_or_heard_twice() -> None:
    rng = np.random.default_rng(3)
    loud = rng.normal(0, 0.1, 300 * RATE).astype(np.float32)
    loud *= 0.2 + np.abs(np.sin(np.arange(len(loud)) / RATE * 9))
    for _ in range(8):
        place = int(rng.uniform(0, 290) * RATE)
        loud[place : place + int(rng.uniform(0.2, 8) * RATE)] = 0
    heard_once = np.zeros(len(loud), int)
    chunks = Chunks((loud[i : i + RATE] for i in range(0, len(loud), RATE)), EnergyDetector())
    for chunk in chunks:
        length = len(chunk.samples)
        assert length <= WINDOW_SAMPLES
        rest = chunk.behind(rng.uniform(5, 30)) if rng.random() < 0.6 else ()
        if sum(len(piece.samples) for piece in rest) >= length:
            rest = ()
        chunks.give_back(rest)
        for piece in chunk.pieces:
            assert np.array_equal(piece.samples, loud[piece.start : piece.start + len(piece.samples)])
            heard_once[piece.start : piece.start + len(piece.samples)] += 1
        for piece in rest:
            heard_once[piece.start : piece.start + len(piece.samples)] -= 1
    assert heard_once.max() == 1
    assert heard_once[loud != 0].mean() > 0.99


def _voice(seconds: float) -> Samples:
    """As loud and as uneven as speech."""
    places = np.arange(round(seconds * RATE)) / RATE
    loud = np.random.default_rng(4).normal(0, 0.1, len(places)) * (0.2 + np.abs(np.sin(places * 9)))
    return loud.astype(np.float32)


def _stretches(*parts: Samples, alone: int) -> list[list[int]]:
    """Whole seconds of each piece of each chunk."""
    rule = ChunkingRule(min_speech=RATE // 10, alone=alone)
    chunks = Chunks(iter(parts), EnergyDetector(), 0, rule)
    return [[round(len(piece.samples) / RATE - 0.8) for piece in chunk.pieces] for chunk in chunks]


def test_long_stretches_of_speech_between_long_pauses_are_chunks_of_their_own() -> None:
    parts = [silence(5), _voice(10), silence(5), _voice(9), silence(20), _voice(12), silence(5)]
    assert _stretches(*parts, alone=8 * RATE) == [[10], [9], [12]]
    assert _stretches(*parts, alone=WINDOW_SAMPLES) == [[10, 9], [12]]


def test_short_stretches_of_speech_are_joined_over_pauses_until_the_window_is_full() -> None:
    parts = [silence(5), *[part for _ in range(4) for part in (_voice(6), silence(4))], _voice(10), silence(5)]
    assert _stretches(*parts, alone=8 * RATE) == [[6, 6, 6, 6], [10]]


def test_a_stretch_that_stands_alone_is_not_filled_up_with_the_beginning_of_a_longer_one() -> None:
    assert _stretches(silence(5), _voice(9), silence(5), _voice(29.2), silence(5), alone=8 * RATE)[0] == [9]


def test_silence_that_is_given_back_does_not_begin_the_next_chunk() -> None:
    parts = [silence(5), _voice(10), silence(5), _voice(9), silence(5)]
    chunks = Chunks(iter(parts), EnergyDetector(), 0, ChunkingRule(min_speech=RATE // 10, alone=8 * RATE))
    starts = []
    for chunk in chunks:
        starts.append(round(chunk.start / RATE, 1))
        chunks.give_back(chunk.behind(len(chunk.samples) / RATE - 0.35))
    assert starts == [4.6, 19.6]


def test_a_word_that_is_given_back_is_heard_with_the_sentence_that_runs_on_behind_it() -> None:
    sound = np.concatenate([_voice(20), silence(0.5), _voice(0.1), silence(0.9), _voice(25), silence(5)])
    chunks, starts = Chunks(iter([sound]), EnergyDetector()), []
    for chunk in chunks:
        starts.append(round(chunk.start / RATE, 1))
        if len(starts) == 1:
            assert 20.6 < chunk.end / RATE < 21.5, "cut in the pause behind the word"
            chunks.give_back(chunk.behind(20.2))
    assert starts == [0.0, 20.2]


def test_a_cut_falls_into_a_pause() -> None:
    level = np.full(900, -20, np.float32)
    level[700:710] = -70
    level[850:853] = -75
    assert 700 <= quietest_frame(level) <= 710
    level[700:710] = -20
    assert 850 <= quietest_frame(level) <= 853, "without a pause, the quietest frame"


def test_times_in_a_chunk_are_times_in_the_file() -> None:
    chunk = Chunk((_piece(100, 10), _piece(200, 10)), RATE // 5)
    assert chunk.file_start(1) == chunk.file_end(1) == 101
    assert (chunk.file_end(10), chunk.file_start(10)) == (110, 200), "a joint ends before its pause and starts behind it"
    assert (chunk.file_start(12.5), chunk.file_end(99)) == (202.5, 210)
    assert chunk.end == 210 * RATE and chunk.joints == [10.0]
    breath = Chunk((_piece(0, 3), _piece(3.5, 3)), RATE // 5)
    assert breath.joints == [], "a sentence runs on over a breath"


def test_times_that_are_some_tenths_off_stay_on_their_side_of_a_joint() -> None:
    chunk = Chunk((_piece(100, 10), _piece(200, 10)), RATE // 5)
    assert chunk.file_times(1, 2) == (101, 102)
    assert chunk.file_times(11, 12) == (201, 202)
    assert chunk.file_times(9.9, 12) == (200, 202), "it starts a hair before the joint and belongs behind it"
    assert chunk.file_times(8, 10.2) == (108, 110)
    assert chunk.file_times(5, 15) == (105, 205)
    assert chunk.file_times(19, 30) == (209, 210)
