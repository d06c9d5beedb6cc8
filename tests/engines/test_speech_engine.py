"""batch/workers/speech with real Whisper models, tiny.en and base: short clips, long files, languages, silence."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from batch.errors import BadRequest, Cancelled, ModelProblem, NotSupported, UnsupportedMedia
from batch.media.sound.samples import SAMPLE_RATE as RATE
from batch.memory.compute_device import ComputeDevice
from batch.payloads.questions import Tokenize
from batch.payloads.speech import TranscriptionResult
from batch.settings import Settings, SttSettings
from batch.workers.speech import audio_context, transcription
from batch.workers.speech import engine as speech_engine
from batch.workers.speech.engine import SpeechEngine
from batch.workers.speech.transcription import TranscriptCheckpoint
from batch.workers.speech.voice_activity import SileroDetector
from batch.workers.speech.whisper.model import WhisperModel
from scripted_work import ScriptedWork
from segments import segment_of
from sounds import JFK, JFK_SAYS, encode, jfk, music, silence
from speech_setup import BASE, SILERO, TINY_EN, loaded, transcribe, word_errors, work


@pytest.fixture(autouse=True, scope="module")
def patience() -> Iterator[None]:
    """Jobs pass no yield point because they wait for the decoder: how often they pass one depends on their sound alone, not on
    the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transcription, "WAIT_STEP_S", math.inf)
        yield


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


def test_facts_say_what_the_model_is(english: SpeechEngine) -> None:
    engine = loaded(TINY_EN, vad_model=str(SILERO))
    info = engine.load(lambda _: None)
    engine.close()
    assert (info.model, info.n_vocab, info.multilingual, info.languages) == ("ggml-tiny.en", 51864, False, ["en"])
    assert info.vad == str(SILERO) and info.type == "tiny" and info.n_ctx == 448
    with pytest.raises(NotSupported):
        english.ask(Tokenize(content="a"))


def test_a_gpu_is_asked_for_room_and_the_machine_is_not_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = ComputeDevice("CUDA0", "NVIDIA H100 80GB HBM3", True, 200_000_000, 84_900_000_000)
    monkeypatch.setattr(speech_engine, "used_gpu", lambda: gpu)
    with pytest.raises(ModelProblem, match=r"ggml-tiny\.en needs about 0\.6 GB of the GPU's memory and 0\.2 GB of it are free"):
        loaded(TINY_EN)
    monkeypatch.setattr(speech_engine, "require_memory", lambda *_: pytest.fail("the machine's memory was asked for"))
    monkeypatch.setattr(speech_engine, "used_gpu", lambda: msgspec.structs.replace(gpu, free_bytes=600_000_000_000))
    engine = loaded(TINY_EN, parallel="auto")
    assert engine._copies is not None and engine._copies.width == 1
    engine.close()


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
    result = transcribe(engine, job)
    assert word_errors(result.text, JFK_SAYS) == 0
    assert result.text.startswith(" And so") and result.text.endswith(".\n")
    assert (result.language, result.language_name, result.duration) == ("en", "english", 11.0)
    assert len(job.units) == 1 and job.units[0] == (0.0, 11.0, "seconds")
    assert [event.segment for event in job.events] == result.segments
    assert result.segments[0].words is None and result.truncated is None
    for at, segment in enumerate(result.segments):
        assert segment.id == at and 0 <= segment.start < segment.end <= 11
        assert -1 < segment.avg_logprob < 0 and 0 <= segment.no_speech_prob < 0.5
        assert 0.5 < segment.compression_ratio < 2.4 and segment.tokens


def test_a_clip_in_the_whole_window_gets_whisper_cpps_own_answer(english: SpeechEngine, tmp_path: Path) -> None:
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
    ours = transcribe(english, work(tmp_path, samples, audio_ctx=0)).segments
    assert [(s.start, s.end, s.text) for s in ours] == theirs, "but for silence at the edges"


def test_a_short_clip_is_heard_in_a_short_context_unless_the_request_names_one(english: SpeechEngine, tmp_path: Path) -> None:
    assert english._model is not None
    clip = jfk()[: 9 * RATE]
    kinds: tuple[tuple[dict[str, Any], int], ...] = (
        ({}, 768),
        ({"audio_ctx": 0}, 0),
        ({"audio_ctx": 500}, 500),
        ({"words": True}, 0),
    )
    for options, positions in kinds:
        result = transcribe(english, work(tmp_path, clip, **options))
        assert word_errors(result.text, JFK_SAYS[: JFK_SAYS.rindex(" can do")]) <= 0.1
        assert english._model.attention.positions == positions


def test_a_short_clip_that_is_doubtful_is_heard_in_the_whole_window(
    english: SpeechEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert english._model is not None
    monkeypatch.setattr(audio_context, "is_doubtful", lambda segments: True)
    clip = jfk()[: 4 * RATE]
    again = transcribe(english, work(tmp_path, clip))
    assert english._model.attention.positions == 0
    assert again.segments == transcribe(english, work(tmp_path, clip, audio_ctx=0)).segments


def test_nothing_is_carried_from_one_job_to_the_next(english: SpeechEngine, tmp_path: Path) -> None:
    clip = jfk()[: 4 * RATE]
    first = transcribe(english, work(tmp_path, clip))
    transcribe(english, work(tmp_path, jfk()[5 * RATE :], prompt="Bananas!", max_len=10, no_timestamps=True))
    assert transcribe(english, work(tmp_path, clip)).segments == first.segments, "to the last probability"


def test_what_is_computed_before_the_first_sound_is_not_heard_in_it(english: SpeechEngine, tmp_path: Path) -> None:
    assert english._model is not None
    clip = jfk()[: 4 * RATE]
    first = transcribe(english, work(tmp_path, clip))
    english._model.warm_up()
    assert transcribe(english, work(tmp_path, clip)).segments == first.segments, "to the last probability"


def test_sound_that_another_kind_of_call_heard_is_not_heard_again(english: SpeechEngine, tmp_path: Path) -> None:
    """whisper.cpp lays what it hears out anew for each kind of call, and reads beyond its end."""
    clip = jfk()[: 3 * RATE]

    def heard() -> list[TranscriptionResult]:
        return [transcribe(english, work(tmp_path, clip, audio_ctx=positions)) for positions in (0, 500)]

    first = [result.segments for result in heard()]
    kinds: tuple[dict[str, Any], ...] = ({"words": True}, {"audio_ctx": 768})
    for kind in kinds:
        transcribe(english, work(tmp_path, jfk()[3 * RATE :], **kind))
        assert [result.segments for result in heard()] == first, "to the last probability"


def test_a_language_is_detected_in_all_of_the_sound_whatever_the_call_before_heard(base: SpeechEngine, tmp_path: Path) -> None:
    shares = []
    for _ in range(2):
        shares.append(transcribe(base, work(tmp_path, jfk(), detect_language=True)).language_probabilities)
        transcribe(base, work(tmp_path, jfk()[: 2 * RATE], language="en", audio_ctx=100))
    assert shares[0] == shares[1]


def test_word_times_are_whole_words_in_order(english: SpeechEngine, tmp_path: Path) -> None:
    result = transcribe(english, work(tmp_path, jfk(), words=True))
    said = [word for segment in result.segments for word in segment.words or []]
    assert [w.word.strip(",.").lower() for w in said] == JFK_SAYS.lower().split()
    assert all(w.probability is None and w.t_dtw is None and 0 <= w.start < w.end <= 11 for w in said)
    assert all(a.end <= b.start for a, b in itertools.pairwise(said))
    for segment in result.segments:
        assert segment.words and (segment.start, segment.end) == (segment.words[0].start, segment.words[-1].end)
    plain = transcribe(english, work(tmp_path, jfk()))
    assert word_errors(plain.text, result.text) == 0


def test_token_times_are_whisper_servers_words(english: SpeechEngine, tmp_path: Path) -> None:
    segments = transcribe(english, work(tmp_path, jfk(), token_timestamps=True)).segments
    tokens = [word for segment in segments for word in segment.words or []]
    assert "".join(token.word for token in tokens) == "".join(segment.text for segment in segments)
    assert all(token.probability is not None and 0 < token.probability <= 1 for token in tokens)
    assert all(token.t_dtw is not None and 0 < token.t_dtw <= 1100 for token in tokens)
    assert all(0 <= token.start < token.end <= 11 for token in tokens)
    assert all(a.end <= b.start for a, b in itertools.pairwise(tokens))


def test_log_probabilities_come_with_every_token(english: SpeechEngine, tmp_path: Path) -> None:
    (segment,) = transcribe(english, work(tmp_path, jfk()[: 3 * RATE], logprobs=True)).segments
    assert segment.logprobs is not None and len(segment.logprobs) == len(segment.tokens)
    assert b"".join(bytes(token.bytes) for token in segment.logprobs).decode() == segment.text
    assert all(-10 < token.logprob < 0 and token.token.encode() == bytes(token.bytes) for token in segment.logprobs)
    assert sum(token.logprob for token in segment.logprobs) / len(segment.tokens) == pytest.approx(segment.avg_logprob, rel=0.5)


def test_segments_are_wrapped_at_words(english: SpeechEngine, tmp_path: Path) -> None:
    segments = transcribe(english, work(tmp_path, jfk(), max_len=20, split_on_word=True)).segments
    assert len(segments) > 4 and all(len(s.text) <= 26 and s.text.startswith(" ") for s in segments)


def test_offset_and_duration_cut_a_piece_out(english: SpeechEngine, tmp_path: Path) -> None:
    result = transcribe(english, work(tmp_path, jfk(), offset_t=3000, duration=5000))
    assert word_errors(result.text, "ask not what your country can do for you") == 0
    assert result.segments[0].start >= 3.0 and result.segments[-1].end <= 8.1
    assert result.duration == 11.0
    assert transcribe(english, work(tmp_path, jfk(), offset_t=60_000)).segments == []


def test_the_language_is_detected_with_its_probabilities(base: SpeechEngine, english: SpeechEngine, tmp_path: Path) -> None:
    result = transcribe(base, work(tmp_path, jfk(), language="auto"))
    assert result.language == "en" and word_errors(result.text, JFK_SAYS) == 0
    shares = result.language_probabilities or {}
    assert max(shares, key=lambda code: shares[code]) == "en" and shares["en"] > 0.8 and sum(shares.values()) <= 1.001
    only = transcribe(base, work(tmp_path, jfk(), detect_language=True))
    assert (only.language, only.segments, only.text) == ("en", [], "")
    named = transcribe(english, work(tmp_path, jfk()[: 2 * RATE], language="English", no_language_probabilities=True))
    assert named.language_probabilities is None and named.language == "en"


def test_a_wrong_guess_of_the_language_changes_nothing(base: SpeechEngine, tmp_path: Path) -> None:
    answers = []
    for guess in ("en", "de"):
        base.last_language = guess
        answers.append(transcribe(base, work(tmp_path, jfk(), language="auto", temperature_inc=0.0)))
    assert len({a.text for a in answers}) == 1 and {a.language for a in answers} == {"en"}


@pytest.mark.parametrize("wanted", ["xx", "klingon", "zh-"])
def test_an_unknown_language_is_refused(base: SpeechEngine, tmp_path: Path, wanted: str) -> None:
    if wanted == "zh-":
        wanted = "yue"  # a language of large-v3, whose token means something else in base
    with pytest.raises(BadRequest, match=wanted):
        transcribe(base, work(tmp_path, jfk(), language=wanted))


def test_an_english_model_does_english_only(english: SpeechEngine, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="knows English only"):
        transcribe(english, work(tmp_path, jfk(), language="zh"))
    for language in ("auto", "en-GB"):
        assert transcribe(english, work(tmp_path, jfk()[: 3 * RATE], language=language, temperature_inc=0.0)).language == "en"


def test_translating_english_gives_english(base: SpeechEngine, tmp_path: Path) -> None:
    assert word_errors(transcribe(base, work(tmp_path, jfk(), translate=True)).text, JFK_SAYS) < 0.1


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
    assert word_errors(transcribe(english, work(tmp_path, jfk(), **options)).text, JFK_SAYS) <= 0.1


@pytest.mark.parametrize("letter", ["a", "天"])
def test_a_prompt_without_an_end_does_no_harm(english: SpeechEngine, tmp_path: Path, letter: str) -> None:
    prompt = letter * 100_000 + " A speech of the president."
    assert word_errors(transcribe(english, work(tmp_path, jfk(), prompt=prompt)).text, JFK_SAYS) <= 0.1


def test_other_formats_and_the_sound_of_a_video_are_understood(english: SpeechEngine, tmp_path: Path) -> None:
    for name, codec, picture in (("a.mp3", "libmp3lame", False), ("a.mp4", "aac", True)):
        path = encode(tmp_path / name, jfk(), codec, 44100, layout="stereo", picture=picture)
        assert word_errors(transcribe(english, work(tmp_path, path)).text, JFK_SAYS) == 0


def test_a_truncated_file_is_transcribed_as_far_as_it_goes(english: SpeechEngine, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    cut.write_bytes(JFK.read_bytes()[: 44 + 32 * 8000])
    result = transcribe(english, work(tmp_path, cut, filename="speech.wav"))
    assert result.truncated == "speech.wav breaks off after 8.0 of 11.0 seconds."
    assert word_errors(result.text, "And so my fellow Americans ask not what your country can do for you") <= 0.1


def test_what_is_no_sound_fails_with_its_name(english: SpeechEngine, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no sound " * 100)
    with pytest.raises(UnsupportedMedia, match=r"^notes\.txt"):
        transcribe(english, work(tmp_path, path, filename="notes.txt"))


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
    result = transcribe(engine, work(tmp_path, _noises()[name], language="auto"))
    assert (result.text, result.segments) == ("", [])
    assert result.language == ("en" if model == "english" else "") and not result.language_probabilities


def test_silence_claims_no_language(base: SpeechEngine, tmp_path: Path) -> None:
    for options in ({"language": "auto"}, {"detect_language": True}, {"language": "auto", "vad": True}):
        result = transcribe(base, work(tmp_path, silence(40 if "vad" in options else 5), **options))
        assert (result.language, result.language_name, result.language_probabilities) == ("", "", None), options
    assert transcribe(base, work(tmp_path, silence(5), language="de")).language == "de", "who names it knows it"


# -- long files


def _spread() -> Any:
    return np.concatenate([jfk(), silence(20), jfk(), silence(25), jfk(), silence(10)])


@pytest.fixture(scope="module")
def undisturbed(english: SpeechEngine, tmp_path_factory: pytest.TempPathFactory) -> tuple[ScriptedWork, TranscriptionResult]:
    """A long file's job that nothing came in between of, and its result."""
    job = work(tmp_path_factory.mktemp("undisturbed"), _spread(), words=True)
    return job, transcribe(english, job)


def test_a_long_file_goes_by_in_chunks_with_checkpoints_progress_and_true_times(
    undisturbed: tuple[ScriptedWork, TranscriptionResult],
) -> None:
    job, result = undisturbed
    assert word_errors(result.text, " ".join([JFK_SAYS] * 3)) < 0.05
    assert result.duration == pytest.approx(88, abs=0.1)
    starts = [0, 31, 67]
    for segment in result.segments:
        assert any(start - 0.5 <= segment.start < segment.end <= start + 11.5 for start in starts)
    said = [w for s in result.segments for w in s.words or [] if w.word.strip(",.") == "Americans"]
    assert [round(w.start) for w in said] == pytest.approx([2, 33, 69], abs=1)
    assert len(job.saved) >= 2 and [s for kept in job.saved for s in kept.segments] == result.segments
    assert all(total == pytest.approx(88, abs=0.1) and unit == "seconds" for _, total, unit in job.units)
    done = [d for d, _, _ in job.units]
    assert done == sorted(done) and done[-1] > 50
    assert [s.id for s in result.segments] == list(range(len(result.segments)))


def test_without_times_nothing_is_cut_at_a_pause(english: SpeechEngine, tmp_path: Path) -> None:
    sound = np.concatenate([jfk(), silence(20), jfk()[: 4 * RATE]])  # both go into one chunk
    job = work(tmp_path, sound, no_timestamps=True, temperature_inc=0.0)
    (segment,) = transcribe(english, job).segments
    assert len(job.saved) == 1 and word_errors(segment.text, f"{JFK_SAYS} And so my fellow Americans") < 0.2


def test_long_stretches_between_pauses_are_heard_one_by_one_in_a_short_context_and_their_segments_lie_where_they_were_said(
    english: SpeechEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, bool]] = []
    decode = WhisperModel.transcribe

    def watched(model: WhisperModel, samples: Any, decoding: Any, *args: Any, **more: Any) -> Any:
        asked.append((decoding.audio_ctx, decoding.align))
        return decode(model, samples, decoding, *args, **more)

    monkeypatch.setattr(WhisperModel, "transcribe", watched)
    job = work(tmp_path, _spread())
    result = transcribe(english, job)
    assert asked == [(768, False)] * 3 and len(job.saved) == 3
    assert word_errors(result.text, " ".join([JFK_SAYS] * 3)) < 0.05
    for segment in result.segments:
        assert any(start + 0.2 <= segment.start < segment.end <= start + 11.1 for start in (0, 31, 67)), segment


def test_a_restart_goes_on_at_the_next_chunk(
    english: SpeechEngine, undisturbed: tuple[ScriptedWork, TranscriptionResult], tmp_path: Path
) -> None:
    whole, result = undisturbed
    assert len(whole.saved) > 1

    broken = work(tmp_path, _spread(), words=True)

    def crash(*_: Any) -> int:
        if broken.saved:
            raise Cancelled
        return 1

    broken.yield_point = crash  # type: ignore[method-assign]
    with pytest.raises(Cancelled):
        transcribe(english, broken)
    assert len(broken.saved) == 1
    again = work(tmp_path, _spread(), words=True, checkpoints=broken.saved)
    resumed = transcribe(english, again)
    assert word_errors(resumed.text, result.text) < 0.05
    assert resumed.segments[: len(broken.saved[0].segments)] == broken.saved[0].segments
    assert [s.id for s in resumed.segments] == list(range(len(resumed.segments)))
    first_again = next(event.segment for event in again.events)
    assert first_again.id == len(broken.saved[0].segments), "what was said before is not said again"


def test_another_job_between_two_chunks_changes_neither(
    english: SpeechEngine, undisturbed: tuple[ScriptedWork, TranscriptionResult], tmp_path: Path
) -> None:
    _, alone = undisturbed
    inner: list[Any] = []
    short = jfk()[: 4 * RATE]

    def interrupted() -> None:
        inner.append(transcribe(english, work(tmp_path, short, prompt="Bananas!", max_len=9, temperature=0.0)))

    outer = transcribe(english, work(tmp_path, _spread(), words=True, at={1: interrupted, 2: interrupted}))
    assert outer.segments == alone.segments
    assert len(inner) == 2 and inner[0].segments == inner[1].segments != []


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
        transcribe(base, job)
    thread.join()
    assert len(job.units) == 2
    base.interrupt()  # nothing runs: harmless
    assert "fellow" in transcribe(base, work(tmp_path, jfk()[: 3 * RATE])).text


def test_an_interrupt_without_a_cancel_does_the_chunk_again(english: SpeechEngine, tmp_path: Path) -> None:
    job = work(tmp_path, jfk())

    def later() -> None:
        deadline = time.monotonic() + 30
        while not job.units and time.monotonic() < deadline:
            time.sleep(0.005)
        english.interrupt()

    thread = threading.Thread(target=later)
    thread.start()
    assert word_errors(transcribe(english, job).text, JFK_SAYS) == 0
    thread.join()
    assert len(job.units) == 2


def test_hours_of_silence_cost_no_model_call_but_yield(english: SpeechEngine, tmp_path: Path) -> None:
    job = work(tmp_path, silence(240))
    assert transcribe(english, job).segments == []
    assert len(job.units) >= 3 and not job.saved
    done = [d for d, _, _ in job.units]
    assert done == sorted(done) and done[-1] > 150, "progress is what was heard, spoken or not"


def test_a_job_passes_its_yield_point_while_it_waits_for_the_decoder(
    english: SpeechEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcription, "WAIT_STEP_S", 0.0)
    monkeypatch.setattr("batch.media.decoder.process.TICK_S", 0.0001)
    job = work(tmp_path, jfk())
    assert word_errors(transcribe(english, job).text, JFK_SAYS) == 0
    assert len(job.units) > 1


@pytest.mark.parametrize("resumed", [False, True])
def test_sound_that_is_skipped_yields_all_the_same(english: SpeechEngine, tmp_path: Path, resumed: bool) -> None:
    place = 238 * RATE
    sound = np.concatenate([silence(238), jfk()[: 3 * RATE]])
    kept = TranscriptCheckpoint(segments=[], language="en", sure=True, shares={}, resume=place)
    given: dict[str, Any] = {"checkpoints": [kept]} if resumed else {"offset_t": place * 1000 // RATE}
    job = work(tmp_path, sound, **given)
    (segment,) = transcribe(english, job).segments
    assert "fellow" in segment.text and segment.start >= 237.5
    assert len(job.units) >= 4, "three minutes that nobody hears, and the chunk"


# -- chunks


def test_a_sentence_that_a_chunk_cuts_off_is_heard_again_with_what_follows(
    base: SpeechEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whisper itself would look at the end of such a chunk once more, in an encoder pass of its own."""
    left: list[float | None] = []
    decode = WhisperModel.transcribe

    def watched(model: WhisperModel, *args: Any, **more: Any) -> Any:
        found = decode(model, *args, **more)
        left.append(model.left_off)
        return found

    monkeypatch.setattr(WhisperModel, "transcribe", watched)
    parts = [jfk(), jfk()[int(3.2 * RATE) :], jfk(), jfk()[int(3.2 * RATE) :]]
    said = " ".join([JFK_SAYS, JFK_SAYS[JFK_SAYS.index("ask") :]] * 2)
    job = work(tmp_path, np.concatenate(parts), vad_min_silence_duration_ms=500, vad_speech_pad_ms=300)
    result = transcribe(base, job)
    assert len(left) == 2 and left[0] is not None and left[1] is None, "two passes for 37 seconds"
    assert word_errors(result.text, said) < 0.05
    first = job.saved[0]
    assert first.resume == pytest.approx(RATE * first.segments[-1].end, abs=RATE // 2), "a restart goes on there"


def test_silero_finds_speech_and_no_music(tmp_path: Path) -> None:
    engine = loaded(TINY_EN, vad_model=str(SILERO))
    try:
        for samples in (music(60), music(20)):
            assert transcribe(engine, work(tmp_path, samples)).segments == []
        result = transcribe(engine, work(tmp_path, _spread()))
        assert word_errors(result.text, " ".join([JFK_SAYS] * 3)) < 0.05
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


def test_a_chunk_in_which_whisper_looped_is_heard_again_more_strictly(
    english: SpeechEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    decode = WhisperModel.transcribe

    def stuck(model: WhisperModel, samples: Any, decoding: Any, *args: Any, **more: Any) -> Any:
        asked.append(decoding.entropy_thold)
        if len(asked) == 1:
            return [segment_of(" Thank you.", start=float(i), end=i + 1.0) for i in range(5)]
        return decode(model, samples, decoding, *args, **more)

    monkeypatch.setattr(WhisperModel, "transcribe", stuck)
    result = transcribe(english, work(tmp_path, _spread(), words=True))
    assert asked == [2.4, 2.8, *[2.4] * (len(asked) - 2)], "only the chunk that looped"
    assert word_errors(result.text, " ".join([JFK_SAYS] * 3)) < 0.1 and "Thank you" not in result.text
    asked.clear()
    transcribe(english, work(tmp_path, _spread(), words=True, entropy_thold=3.0))
    assert set(asked) == {3.0}, "what the request names holds"
