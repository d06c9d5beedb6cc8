"""batch/workers/stt.py and what it stands on, with real Whisper models: tiny.en and base."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batch.errors import BadRequest, Cancelled, ModelProblem, NotSupported, UnsupportedMedia
from batch.media.audio import RATE
from batch.settings import Settings, SttSettings
from batch.workers.speech.engine import SpeechEngine
from batch.workers.speech.hallucinations import is_noise, looped, without_loops
from batch.workers.speech.voice_activity import Chunk, Chunks, EnergyDetector, Piece, SileroDetector, heard, quietest
from batch.workers.speech.whisper import (
    PROMPT_BYTES,
    WINDOW,
    Segment,
    Token,
    WhisperModel,
    prompt_end,
    whole_characters,
)
from batch.workers.speech.word_timestamps import apart, words
from scripted_work import ScriptedWork
from speech_setup import (
    BASE,
    JFK,
    JFK_SAYS,
    SILERO,
    TINY_EN,
    encode,
    jfk,
    loaded,
    music,
    silence,
    word_errors,
    work,
)


@pytest.fixture(scope="module")
def english() -> Iterator[SpeechEngine]:
    engine = loaded(TINY_EN)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def base() -> Iterator[SpeechEngine]:
    engine = loaded(BASE)
    yield engine
    engine.close()


# -- loading


def test_facts_say_what_the_model_is(base: SpeechEngine, english: SpeechEngine) -> None:
    facts = base._facts
    assert (facts["model"], facts["n_vocab"], facts["multilingual"], len(facts["languages"])) == (
        "ggml-base",
        51865,
        True,
        99,
    )
    assert english._facts["languages"] == ["en"]
    with pytest.raises(NotSupported):
        base.ask("tokenize", {})


def test_a_missing_foreign_or_cut_model_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelProblem, match="is not there"):
        WhisperModel(tmp_path / "none.bin")
    foreign = tmp_path / "foreign.bin"
    foreign.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelProblem, match=r"foreign\.bin is not a ggml Whisper model"):
        WhisperModel(foreign)
    whole = TINY_EN.read_bytes()
    cut = tmp_path / "cut.bin"
    for length in (60, 5_000, 300_000, len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:length])
        with pytest.raises(ModelProblem, match=r"cut\.bin is cut short"):
            WhisperModel(cut)
    engine = SpeechEngine(Settings(stt=SttSettings(model=str(tmp_path / "none.bin"))))
    with pytest.raises(ModelProblem, match=r"none\.bin"):
        engine.load(lambda _: None)


# -- short clips


@pytest.mark.parametrize("name", ["english", "base"])
def test_the_known_speech_is_understood_word_for_word(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    engine: SpeechEngine = request.getfixturevalue(name)
    job = work(tmp_path, jfk())
    result = engine.run(job)
    assert word_errors(result["text"], JFK_SAYS) == 0
    assert result["text"].startswith(" And so") and result["text"].endswith(".\n")
    assert (result["language"], result["language_name"], result["duration"]) == ("en", "english", 11.0)
    assert len(job.units) == 1 and job.units[0] == (0.0, 11.0, "seconds")
    assert [e["segment"] for e in job.events if e["type"] == "segment"] == result["segments"]
    assert "words" not in result["segments"][0] and "truncated" not in result
    for at, segment in enumerate(result["segments"]):
        assert segment["id"] == at and 0 <= segment["start"] < segment["end"] <= 11
        assert -1 < segment["avg_logprob"] < 0 and 0 <= segment["no_speech_prob"] < 0.5
        assert 0.5 < segment["compression_ratio"] < 2.4 and segment["tokens"]


def test_a_short_clip_gets_whisper_cpps_own_answer(english: SpeechEngine, tmp_path: Path) -> None:
    import _pywhispercpp as pw

    context = pw.whisper_init_from_file_with_params(str(TINY_EN), pw.whisper_context_default_params())
    params = pw.whisper_full_default_params(pw.whisper_sampling_strategy.WHISPER_SAMPLING_GREEDY)
    params.n_threads, params.print_progress, params.greedy = 1, False, {"best_of": 2}
    samples = jfk()
    assert pw.whisper_full(context, params, samples, len(samples)) == 0
    theirs = [
        (
            pw.whisper_full_get_segment_t0(context, i) / 100,
            pw.whisper_full_get_segment_t1(context, i) / 100,
            pw.whisper_full_get_segment_text(context, i).decode(),
        )
        for i in range(pw.whisper_full_n_segments(context))
    ]
    pw.whisper_free(context)
    ours = english.run(work(tmp_path, samples))["segments"]
    assert [(s["start"], s["end"], s["text"]) for s in ours] == theirs


def test_nothing_is_carried_from_one_job_to_the_next(english: SpeechEngine, tmp_path: Path) -> None:
    clip = jfk()[: 4 * RATE]
    first = english.run(work(tmp_path, clip))
    english.run(work(tmp_path, jfk()[5 * RATE :], prompt="Bananas!", max_len=10, no_timestamps=True))
    assert english.run(work(tmp_path, clip))["segments"] == first["segments"], "to the last probability"


def test_word_times_are_whole_words_in_order(english: SpeechEngine, tmp_path: Path) -> None:
    result = english.run(work(tmp_path, jfk(), words=True))
    said = [word for segment in result["segments"] for word in segment["words"]]
    assert [w["word"].strip(",.").lower() for w in said] == JFK_SAYS.lower().split()
    assert all(set(w) == {"word", "start", "end"} and 0 <= w["start"] <= w["end"] <= 11 for w in said)
    assert all(a["start"] <= b["start"] for a, b in itertools.pairwise(said))
    ask = next(w for w in said if w["word"] == "ask")
    assert 3.0 < ask["start"] < 3.9, "he pauses before he says ask"
    plain = english.run(work(tmp_path, jfk()))["segments"]
    assert [{**s, "words": None} for s in result["segments"]] == [{**s, "words": None} for s in plain], "nothing else changes"


def test_token_times_are_whisper_servers_words(english: SpeechEngine, tmp_path: Path) -> None:
    segments = english.run(work(tmp_path, jfk(), token_timestamps=True))["segments"]
    found = [w for s in segments for w in s["words"]]
    assert set(found[0]) == {"word", "start", "end", "t_dtw", "probability"}
    assert "".join(w["word"] for w in found) == "".join(s["text"] for s in segments)


def test_segments_are_wrapped_at_words(english: SpeechEngine, tmp_path: Path) -> None:
    segments = english.run(work(tmp_path, jfk(), max_len=20, split_on_word=True))["segments"]
    assert len(segments) > 4 and all(len(s["text"]) <= 26 and s["text"].startswith(" ") for s in segments)


def test_offset_and_duration_cut_a_piece_out(english: SpeechEngine, tmp_path: Path) -> None:
    result = english.run(work(tmp_path, jfk(), offset_t=3000, duration=5000))
    assert word_errors(result["text"], "ask not what your country can do for you") == 0
    assert result["segments"][0]["start"] >= 3.0 and result["segments"][-1]["end"] <= 8.1
    assert result["duration"] == 11.0
    assert english.run(work(tmp_path, jfk(), offset_t=60_000))["segments"] == []


def test_the_language_is_detected_with_its_probabilities(base: SpeechEngine, english: SpeechEngine, tmp_path: Path) -> None:
    result = base.run(work(tmp_path, jfk(), language="auto"))
    assert result["language"] == "en" and word_errors(result["text"], JFK_SAYS) == 0
    shares = result["language_probabilities"]
    assert max(shares, key=lambda code: shares[code]) == "en" and shares["en"] > 0.8 and sum(shares.values()) <= 1.001
    only = base.run(work(tmp_path, jfk(), detect_language=True))
    assert (only["language"], only["segments"], only["text"]) == ("en", [], "")
    named = english.run(work(tmp_path, jfk()[: 2 * RATE], language="English", no_language_probabilities=True))
    assert "language_probabilities" not in named and named["language"] == "en"


def test_a_wrong_guess_of_the_language_changes_nothing(base: SpeechEngine, tmp_path: Path) -> None:
    answers = []
    for guess in ("en", "de"):
        base._usual = guess
        answers.append(base.run(work(tmp_path, jfk(), language="auto", temperature_inc=0.0)))
    assert len({a["text"] for a in answers}) == 1 and {a["language"] for a in answers} == {"en"}


@pytest.mark.parametrize("wanted", ["xx", "klingon", "zh-"])
def test_an_unknown_language_is_refused(base: SpeechEngine, tmp_path: Path, wanted: str) -> None:
    if wanted == "zh-":
        wanted = "yue"  # a language of large-v3, whose token means something else in base
    with pytest.raises(BadRequest, match=wanted):
        base.run(work(tmp_path, jfk(), language=wanted))


def test_an_english_model_does_english_only(english: SpeechEngine, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="knows English only"):
        english.run(work(tmp_path, jfk(), language="zh"))
    for language in ("auto", "en-GB"):
        assert english.run(work(tmp_path, jfk()[: 3 * RATE], language=language, temperature_inc=0.0))["language"] == "en"


def test_translating_english_gives_english(base: SpeechEngine, tmp_path: Path) -> None:
    assert word_errors(base.run(work(tmp_path, jfk(), translate=True))["text"], JFK_SAYS) < 0.1


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.2},
        {"beam_size": 3},
        {"best_of": 1, "temperature_inc": 0.0},
        {"no_timestamps": True},
        {"prompt": "A speech of the president.", "carry_initial_prompt": True},
        {"suppress_nst": True},
        {"max_context": 0},
        {"vad": True},
        {"vad": True, "vad_min_speech_duration_ms": 100},
        {"vad": True, "vad_max_speech_duration_s": 9.5},
        {"vad": True, "vad_speech_pad_ms": 100},
        {"vad": True, "vad_min_silence_duration_ms": 10_000},
        {"word_thold": 0.5, "token_timestamps": True},
        {"tinydiarize": True},
        {"audio_ctx": 800},
    ],
)
def test_every_way_of_decoding_still_understands(english: SpeechEngine, tmp_path: Path, options: dict[str, Any]) -> None:
    assert word_errors(english.run(work(tmp_path, jfk(), **options))["text"], JFK_SAYS) <= 0.1


@pytest.mark.parametrize("letter", ["a", "天"])
def test_a_prompt_without_an_end_does_no_harm(english: SpeechEngine, tmp_path: Path, letter: str) -> None:
    prompt = letter * 100_000 + " A speech of the president."
    assert word_errors(english.run(work(tmp_path, jfk(), prompt=prompt))["text"], JFK_SAYS) <= 0.1


def test_of_a_long_prompt_the_end_counts() -> None:
    prose = "And so my fellow Americans. " * 400
    kept = prompt_end(prose)
    assert prose.endswith(kept) and kept.startswith((" And", " so", " my", " fellow", " Americans"))
    assert PROMPT_BYTES - 64 < len(kept) <= PROMPT_BYTES
    for letter in "a天😀":
        assert len(prompt_end(letter * 100_000)) == PROMPT_BYTES // len(letter.encode())
    assert prompt_end(prose[:900]) == prose[:900] and prompt_end("") == ""


def test_other_formats_and_the_sound_of_a_video_are_understood(english: SpeechEngine, tmp_path: Path) -> None:
    for name, codec, picture in (("a.mp3", "libmp3lame", False), ("a.mp4", "aac", True)):
        path = encode(tmp_path / name, jfk(), codec, 44100, layout="stereo", picture=picture)
        assert word_errors(english.run(work(tmp_path, path))["text"], JFK_SAYS) == 0


def test_a_truncated_file_is_transcribed_as_far_as_it_goes(english: SpeechEngine, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    cut.write_bytes(JFK.read_bytes()[: 44 + 32 * 8000])
    result = english.run(work(tmp_path, cut, filename="speech.wav"))
    assert result["truncated"] == "speech.wav breaks off after 8.0 of 11.0 seconds."
    assert word_errors(result["text"], "And so my fellow Americans ask not what your country can do for you") <= 0.1


def test_what_is_no_sound_fails_with_its_name(english: SpeechEngine, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no sound " * 100)
    with pytest.raises(UnsupportedMedia, match=r"^notes\.txt"):
        english.run(work(tmp_path, path, filename="notes.txt"))


# -- nobody speaks


def _noises() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    t = np.arange(60 * RATE) / RATE
    return {
        "silence": silence(60),
        "a faint hiss": rng.normal(0, 1e-3, 60 * RATE).astype(np.float32),
        "a loud hiss": rng.normal(0, 0.1, 60 * RATE).astype(np.float32),
        "hum": (0.05 * np.sin(2 * np.pi * 50 * t)).astype(np.float32),
        "music": music(60),
        "short silence": silence(20),
        "short music": music(20),
        "nothing": silence(0),
        "a short hiss": rng.normal(0, 0.02, 5 * RATE).astype(np.float32),
        "a click": silence(0.05),
    }


@pytest.mark.parametrize(
    ("model", "name"),
    [
        *(("english", name) for name in _noises()),
        ("base", "silence"),
        ("base", "short music"),
        ("base", "a short hiss"),
    ],
)
def test_nothing_is_hallucinated(model: str, name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    engine: SpeechEngine = request.getfixturevalue(model)
    result = engine.run(work(tmp_path, _noises()[name], language="auto"))
    assert (result["text"], result["segments"]) == ("", [])


def test_names_of_noises_are_no_speech() -> None:
    for text in ("[Music]", " (upbeat music)", "♪", " *sighs*", "（音乐）", "...", " [BLANK_AUDIO]"):
        assert is_noise(text)
    for text in ("Music", " (he said, and then he never came back again)", "♪ La la la ♪", "[a] or [b]", "3."):
        assert not is_noise(text)


# -- long files


def _spread() -> Any:
    return np.concatenate([jfk(), silence(20), jfk(), silence(25), jfk(), silence(10)])


@pytest.fixture(scope="module")
def undisturbed(english: SpeechEngine, tmp_path_factory: pytest.TempPathFactory) -> tuple[ScriptedWork, dict[str, Any]]:
    """A long file's job that nothing came in between of, and its result."""
    job = work(tmp_path_factory.mktemp("undisturbed"), _spread(), words=True)
    return job, dict(english.run(job))


def test_a_long_file_goes_by_in_chunks_with_checkpoints_progress_and_true_times(
    undisturbed: tuple[ScriptedWork, dict[str, Any]],
) -> None:
    job, result = undisturbed
    assert word_errors(result["text"], " ".join([JFK_SAYS] * 3)) < 0.05
    assert result["duration"] == pytest.approx(88, abs=0.1)
    starts = [0, 31, 67]
    for segment in result["segments"]:
        assert any(start - 0.5 <= segment["start"] < segment["end"] <= start + 11.5 for start in starts)
    said = [w for s in result["segments"] for w in s["words"] if w["word"].strip(",.") == "Americans"]
    assert [round(w["start"]) for w in said] == pytest.approx([2, 33, 69], abs=1)
    assert len(job.saved) >= 2 and [s for kept in job.saved for s in kept["segments"]] == result["segments"]
    assert all(total == pytest.approx(88, abs=0.1) and unit == "seconds" for _, total, unit in job.units)
    done = [d for d, _, _ in job.units]
    assert done == sorted(done) and done[-1] > 50
    assert [s["id"] for s in result["segments"]] == list(range(len(result["segments"])))


def test_without_times_nothing_is_cut_at_a_pause(english: SpeechEngine, tmp_path: Path) -> None:
    sound = np.concatenate([jfk(), silence(20), jfk()[: 4 * RATE]])  # both go into one chunk
    job = work(tmp_path, sound, no_timestamps=True, temperature_inc=0.0)
    (segment,) = english.run(job)["segments"]
    assert len(job.saved) == 1 and word_errors(segment["text"], f"{JFK_SAYS} And so my fellow Americans") < 0.2


def test_a_restart_goes_on_at_the_next_chunk(
    english: SpeechEngine, undisturbed: tuple[ScriptedWork, dict[str, Any]], tmp_path: Path
) -> None:
    whole, result = undisturbed
    assert len(whole.saved) > 1

    def crash() -> None:
        raise Cancelled

    broken = work(tmp_path, _spread(), words=True, at={len(whole.units): crash})
    with pytest.raises(Cancelled):
        english.run(broken)
    assert len(broken.saved) == 1
    again = work(tmp_path, _spread(), words=True, checkpoints=broken.saved)
    resumed = english.run(again)
    assert word_errors(resumed["text"], result["text"]) < 0.05
    assert resumed["segments"][: len(broken.saved[0]["segments"])] == broken.saved[0]["segments"]
    assert [s["id"] for s in resumed["segments"]] == list(range(len(resumed["segments"])))
    first_again = next(e["segment"] for e in again.events)
    assert first_again["id"] == len(broken.saved[0]["segments"]), "what was said before is not said again"


def test_another_job_between_two_chunks_changes_neither(
    english: SpeechEngine, undisturbed: tuple[ScriptedWork, dict[str, Any]], tmp_path: Path
) -> None:
    _, alone = undisturbed
    inner: list[Any] = []
    short = jfk()[: 4 * RATE]

    def interrupted() -> None:
        inner.append(english.run(work(tmp_path, short, prompt="Bananas!", max_len=9, temperature=0.0)))

    outer = english.run(work(tmp_path, _spread(), words=True, at={1: interrupted, 2: interrupted}))
    assert outer["segments"] == alone["segments"]
    assert len(inner) == 2 and inner[0]["segments"] == inner[1]["segments"] != []


def test_an_interrupt_stops_the_native_call_and_the_next_unit_ends_the_job(base: SpeechEngine, tmp_path: Path) -> None:
    cancelled = threading.Event()

    def unit_two() -> None:
        assert cancelled.is_set(), "the chunk is begun again only after an interrupt"
        raise Cancelled

    job = work(tmp_path, jfk(), at={2: unit_two})

    def later() -> None:
        deadline = time.monotonic() + 30
        while not job.units and time.monotonic() < deadline:
            time.sleep(0.005)
        cancelled.set()
        base.interrupt()

    thread = threading.Thread(target=later)
    thread.start()
    with pytest.raises(Cancelled):
        base.run(job)
    thread.join()
    assert len(job.units) == 2
    base.interrupt()  # nothing runs: harmless
    assert "fellow" in base.run(work(tmp_path, jfk()[: 3 * RATE]))["text"]


def test_an_interrupt_without_a_cancel_does_the_chunk_again(english: SpeechEngine, tmp_path: Path) -> None:
    job = work(tmp_path, jfk())

    def later() -> None:
        deadline = time.monotonic() + 30
        while not job.units and time.monotonic() < deadline:
            time.sleep(0.005)
        english.interrupt()

    thread = threading.Thread(target=later)
    thread.start()
    assert word_errors(english.run(job)["text"], JFK_SAYS) == 0
    thread.join()
    assert len(job.units) == 2


def test_hours_of_silence_cost_no_model_call_but_yield(english: SpeechEngine, tmp_path: Path) -> None:
    job = work(tmp_path, silence(240))
    assert english.run(job)["segments"] == []
    assert len(job.units) >= 3 and not job.saved
    done = [d for d, _, _ in job.units]
    assert done == sorted(done) and done[-1] > 150, "progress is what was heard, spoken or not"


@pytest.mark.parametrize("resumed", [False, True])
def test_sound_that_is_skipped_yields_all_the_same(english: SpeechEngine, tmp_path: Path, resumed: bool) -> None:
    place = 238 * RATE
    sound = np.concatenate([silence(238), jfk()[: 3 * RATE]])
    kept = {"segments": [], "language": "en", "sure": True, "shares": {}, "resume": place}
    given: dict[str, Any] = {"checkpoints": [kept]} if resumed else {"offset_t": place * 1000 // RATE}
    job = work(tmp_path, sound, **given)
    (segment,) = english.run(job)["segments"]
    assert "fellow" in segment["text"] and segment["start"] >= 237.5
    assert len(job.units) >= 4, "three minutes that nobody hears, and the chunk"


# -- regions


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
        assert len(chunk.samples) <= WINDOW
        for piece in chunk.pieces:
            end = piece.start + len(piece.samples)
            assert np.array_equal(piece.samples, sound[piece.start : end])
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
        assert length <= WINDOW
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


def test_a_sentence_that_a_chunk_cuts_off_is_heard_again_with_what_follows(
    base: SpeechEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whisper itself would look at the end of such a chunk once more, in an encoder pass of its own."""
    left: list[float | None] = []
    model = base._model
    assert model is not None
    transcribe = model.transcribe

    def watched(*args: Any, **more: Any) -> Any:
        found = transcribe(*args, **more)
        left.append(model.left_off)
        return found

    monkeypatch.setattr(model, "transcribe", watched)
    parts = [jfk(), jfk()[int(3.2 * RATE) :], jfk(), jfk()[int(3.2 * RATE) :]]
    said = " ".join([JFK_SAYS, JFK_SAYS[JFK_SAYS.index("ask") :]] * 2)
    job = work(tmp_path, np.concatenate(parts), vad_min_silence_duration_ms=500, vad_speech_pad_ms=300)
    result = base.run(job)
    assert len(left) == 2 and left[0] is not None and left[1] is None, "two passes for 37 seconds"
    assert word_errors(result["text"], said) < 0.05
    first = job.saved[0]
    assert first["resume"] == pytest.approx(RATE * first["segments"][-1]["end"], abs=RATE // 10), "a restart goes on there"


def test_a_cut_falls_into_a_pause() -> None:
    level = np.full(900, -20, np.float32)
    level[700:710] = -70
    level[850:853] = -75
    assert 700 <= quietest(level) <= 710
    level[700:710] = -20
    assert 850 <= quietest(level) <= 853, "without a pause, the quietest frame"


def test_times_in_a_chunk_are_times_in_the_file() -> None:
    chunk = Chunk((Piece(100 * RATE, silence(10)), Piece(200 * RATE, silence(10))), RATE // 5)
    breath = Chunk((Piece(0, silence(3)), Piece(3 * RATE + RATE // 2, silence(3))), RATE // 5)
    assert breath.joints == [], "a sentence runs on over a breath"
    assert chunk.times(1, 2) == (101, 102)
    assert chunk.times(11, 12) == (201, 202)
    assert chunk.times(9.9, 12) == (200, 202), "it starts a hair before the joint and belongs behind it"
    assert chunk.times(8, 10.2) == (108, 110)
    assert chunk.times(5, 15) == (105, 205)
    assert chunk.times(19, 30) == (209, 210)
    assert chunk.end == 210 * RATE and chunk.joints == [10.0]


def test_silero_finds_speech_and_no_music(tmp_path: Path) -> None:
    engine = loaded(TINY_EN, vad_model=str(SILERO))
    try:
        for samples in (music(60), music(20)):
            assert engine.run(work(tmp_path, samples))["segments"] == []
        result = engine.run(work(tmp_path, _spread()))
        assert word_errors(result["text"], " ".join([JFK_SAYS] * 3)) < 0.05
    finally:
        engine.close()
    detector = SileroDetector(SILERO)
    frames = jfk()[: 300 * 512].reshape(-1, 512)
    assert detector.scores(frames).max() > 0.9 and detector.scores(np.zeros((50, 512), np.float32))[20:].max() < 0.2
    detector.close()


def test_a_missing_or_wrong_vad_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelProblem, match=r"none\.bin"):
        SileroDetector(tmp_path / "none.bin")
    wrong = tmp_path / "wrong.bin"
    wrong.write_bytes(b"nothing of the kind" * 10)
    with pytest.raises(ModelProblem, match=r"wrong\.bin"):
        SileroDetector(wrong)


# -- loops, words, characters


def _token(text: str | bytes, start: float = 0.0, end: float = 0.0, id: int = 0) -> Token:
    return Token(id, text if isinstance(text, bytes) else text.encode(), start, end, 1.0, -0.1, -1)


def _segment(text: str, ids: list[int] | None = None, start: float = 0.0, end: float = 1.0) -> Segment:
    tokens = tuple(_token(f" w{i}", id=i) for i in ids or [])
    return Segment(start, end, text, tokens, -0.1, 0.0, False)


def test_loops_are_said_once() -> None:
    same = [_segment(" Thank you.", start=float(i), end=i + 1.0) for i in range(5)]
    kept = without_loops([_segment(" Hello."), *same, _segment(" Bye.")])
    assert [s.text for s in kept] == [" Hello.", " Thank you.", " Bye."] and kept[1].end == 5.0
    assert len(without_loops(same[:2])) == 2, "twice is no loop"
    assert without_loops(same[:1], before=[" Thank you.", " thank you."]) == []
    assert without_loops(same[:2], before=["Hello.", " Thank you."]) == [], "one before and two now are three"
    assert without_loops(same, before=["Hello.", " Thank you."]) == []
    assert len(without_loops(same[:1], before=["Hello.", " Thank you."])) == 1
    assert len(without_loops(same[:2], before=[" Thank you.", "Hello."])) == 2, "something else came in between"
    verse = _segment(" And so my fellow Americans.", start=0.0, end=11.0)
    assert without_loops([verse, verse], before=[verse.text] * 2) == [verse, verse], "nobody loops for so long"
    assert len(without_loops([_segment(" Hello."), *same[:2]], before=["Hi.", " Thank you."])) == 3
    ids = [1, 2, 3, *[7, 8, 9] * 12]
    stuck = without_loops([_segment("x", ids)])[0]
    assert [t.id for t in stuck.tokens] == [1, 2, 3, 7, 8, 9] and stuck.text == " w1 w2 w3 w7 w8 w9"
    assert len(without_loops([_segment("x", [5] * 8)])[0].tokens) == 8, "no no no is said"
    assert looped(same) and looped([_segment("x", ids)])
    assert not looped([]) and not looped(same[:2]) and not looped([_segment("x", [5] * 8)])


def test_a_chunk_in_which_whisper_looped_is_heard_again_more_strictly(
    english: SpeechEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = english._model
    assert model is not None
    asked: list[float] = []
    transcribe = model.transcribe

    def stuck(samples: Any, how: Any, *args: Any, **more: Any) -> Any:
        asked.append(how.entropy_thold)
        if len(asked) == 1:
            return [_segment(" Thank you.", start=float(i), end=i + 1.0) for i in range(5)]
        return transcribe(samples, how, *args, **more)

    monkeypatch.setattr(model, "transcribe", stuck)
    result = english.run(work(tmp_path, _spread()))
    assert asked == [2.4, 2.8, *[2.4] * (len(asked) - 2)], "only the chunk that looped"
    assert word_errors(result["text"], " ".join([JFK_SAYS] * 3)) < 0.1 and "Thank you" not in result["text"]
    asked.clear()
    english.run(work(tmp_path, _spread(), entropy_thold=3.0))
    assert set(asked) == {3.0}, "what the request names holds"


def test_words_are_whole_and_chinese_is_a_character_each() -> None:
    latin = words([_token(" He", 0, 1), _token("llo", 1, 2), _token(",", 2, 2), _token(" wor", 3, 4), _token("ld!", 4, 5)])
    assert [(w.text, w.start, round(w.end, 6)) for w in latin] == [("Hello,", 0, 2), ("world!", 3, 5)]
    moon = "月".encode()
    chinese = words(
        [
            _token("我们", 0, 2),
            _token("登", 2, 3),
            _token(moon[:2], 3, 3.5),
            _token(moon[2:], 3.5, 4),
            _token("，", 4, 4),
            _token("iP", 4, 5),
            _token("hone", 5, 6),
            _token("好", 6, 7),
        ]
    )
    assert [w.text for w in chinese] == ["我", "们", "登", "月，", "iPhone", "好"]
    assert [(w.start, w.end) for w in chinese[:4]] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert [w.text for w in words([_token("说：“好”(对)")])] == ["说：", "“好”", "(对)"]
    assert [w.text for w in words([_token(" don"), _token("'t"), _token(" pay"), _token(" $"), _token("5%.")])] == [
        "don't",
        "pay",
        "$5%.",
    ]
    assert words([]) == []


def test_a_segment_over_a_joint_is_cut_between_words() -> None:
    tokens = tuple(_token(f" w{i}", float(i), i + 0.9) for i in range(8))
    whole = Segment(0.0, 8.0, "".join(f" w{i}" for i in range(8)), tokens, -0.1, 0.0, False)
    parts = apart(whole, [5.0])
    assert [(p.text, p.start, p.end) for p in parts] == [(" w0 w1 w2 w3 w4", 0.0, 5.0), (" w5 w6 w7", 5.0, 8.0)]
    assert apart(whole, [8.0, 30.0]) == [whole]
    marked = tuple(_token("," if i == 4 else f" w{i}", float(i), i + 0.9) for i in range(8))
    parts = apart(replace(whole, tokens=marked), [5.6])
    assert [p.text for p in parts] == [" w0 w1 w2 w3,", " w5 w6 w7"], "token times are less sure than a comma"


def test_a_cut_character_is_seen() -> None:
    text = "a月😀é".encode()
    for length in range(len(text) + 1):
        kept = whole_characters(text[:length])
        text[:kept].decode()
        assert length - kept < 4


def test_silero_hears_a_far_voice_and_no_faint_hiss() -> None:
    rng = np.random.default_rng(4)
    for soft in (0.03, 0.01):
        for start in range(0, 10, 2):
            detector = SileroDetector(SILERO)
            assert heard(jfk()[start * RATE : (start + 2) * RATE] * np.float32(soft), detector), (soft, start)
            detector.close()
    detector = SileroDetector(SILERO)
    assert not heard(rng.normal(0, 2e-3, 5 * RATE).astype(np.float32), detector)
    detector.close()


def test_every_new_silero_hears_the_same() -> None:
    # whisper.cpp leaves a new context's state uninitialised: one in two heard nothing at all
    frames = jfk()[: 100 * 512].reshape(-1, 512)
    detectors = [SileroDetector(SILERO) for _ in range(6)]
    found = [detector.scores(frames) for detector in detectors]
    for detector in detectors:
        detector.close()
    assert all(np.array_equal(found[0], other) for other in found) and found[0].max() > 0.9
