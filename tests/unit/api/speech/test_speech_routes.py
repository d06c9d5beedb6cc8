"""batch/api/speech: fields and shapes of both APIs, against a hub with one scripted job."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib
import json
import shutil
import tempfile
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from fastapi.testclient import TestClient

from batch.api.app import create_app
from batch.errors import BatchError, DiskFull, UnsupportedMedia
from batch.payloads.events import SegmentEnded, Started
from batch.payloads.model_info import SpeechModelInfo
from batch.payloads.speech import TranscriptionOptions, TranscriptionResult, TranscriptSegment
from batch.queue.frames import End, TicketEvent
from batch.queue.hub.model_state import ModelState
from batch.queue.jobs import Draft, Kind, Priority, State
from batch.settings import LimitSettings, Settings
from payloads import as_dict
from sounds import JFK, encode, jfk, silence, write_wav

SEGMENTS = [
    {
        "id": 0,
        "seek": 0,
        "start": 0.0,
        "end": 2.5,
        "text": " Hello there,",
        "tokens": [1, 2],
        "temperature": 0.0,
        "avg_logprob": -0.2,
        "compression_ratio": 0.9,
        "no_speech_prob": 0.01,
        "words": [{"word": " Hello", "start": 0.0, "end": 1.0, "t_dtw": -1, "probability": 0.9}],
    },
    {
        "id": 1,
        "seek": 0,
        "start": 2.5,
        "end": 61.25,
        "text": " world.",
        "tokens": [3],
        "temperature": 0.0,
        "avg_logprob": -0.3,
        "compression_ratio": 0.8,
        "no_speech_prob": 0.02,
    },
]
RESULT = {
    "text": " Hello there,\n world.\n",
    "language": "zh",
    "language_name": "chinese",
    "duration": 61.25,
    "segments": SEGMENTS,
    "ms": 5.0,
    "language_probabilities": {"zh": 0.9, "en": 0.05},
}


class SpokenTicket:
    def __init__(self, hub: SpeechHub, draft: Draft) -> None:
        self._hub, self.draft, self.id, self.kind, self.ended = hub, draft, draft.id, draft.kind, False

    async def events(self) -> AsyncIterator[TicketEvent]:
        for event in self._hub.script[:-1]:
            yield event
        self.ended = True
        yield End(job=self.id, state=State.DONE)

    async def bursts(self) -> AsyncIterator[list[TicketEvent]]:
        yield [event async for event in self.events()]

    async def result(self, type: type[TranscriptionResult]) -> TranscriptionResult:
        self.ended = True
        return await self._hub.outcome(self.id, type)

    async def ahead(self) -> int:
        return 0

    async def cancel(self) -> None:
        self.ended = True


class SpeechHub:
    """The API's side of the hub with one job played from a script, whose last item is the result or an error."""

    store = SimpleNamespace(is_shared=False)

    def __init__(self, result: Any = RESULT) -> None:
        segments = [SegmentEnded(segment=msgspec.convert(segment, TranscriptSegment)) for segment in SEGMENTS]
        last = result if isinstance(result, BatchError) else msgspec.convert(result, TranscriptionResult)
        self.script: list[Any] = [Started(), *segments, last]
        self.drafts: list[Draft] = []
        self.blobs: dict[str, bytes] = {}
        self.full = False
        self._folder = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, self._folder)

    async def submit(self, draft: Draft, *, durable: bool = False, is_small: bool = False) -> SpokenTicket:
        self.drafts.append(draft)
        return SpokenTicket(self, draft)

    async def outcome(self, job: str, type: type[TranscriptionResult], end: End | None = None) -> TranscriptionResult:
        if isinstance(self.script[-1], BatchError):
            raise self.script[-1]
        return self.script[-1]

    def for_model(self, draft: Draft, requested: object) -> Draft:
        return draft

    def model(self, queue: str) -> ModelState:
        return ModelState("ready", 1.0, SpeechModelInfo(model="whisper-base", path="/models/ggml-base.bin"))

    def waiting_clients(self, queue: str) -> int:
        return 0

    def listen(self, callback: Any) -> None:
        pass

    async def keep_stream(self, chunks: AsyncIterator[bytes], *, durable: bool = False) -> tuple[str, int]:
        data = b""
        async for chunk in chunks:
            if self.full:
                raise DiskFull
            data += chunk
        sha = hashlib.sha256(data).hexdigest()
        self.blobs[sha] = data
        self.path(sha).write_bytes(data)
        return sha, len(data)

    def path(self, sha256: str) -> Path:
        return self._folder / sha256

    async def fetch(self, sha256: str) -> Path:
        return self.path(sha256)


def client(hub: SpeechHub, **limits: int) -> TestClient:
    app = create_app(Kind.STT, hub, Settings(limits=LimitSettings(**limits)))  # type: ignore[arg-type]
    return TestClient(app, base_url="http://127.0.0.1")


def post(hub: SpeechHub, path: str = "/inference", file: bytes | None = b"sound", **fields: Any) -> httpx.Response:
    files = {"file": ("a.wav", file)} if file is not None else {"none": (None, "")}
    return client(hub).post(path, files=files, data=fields)


# -- fields


def test_the_file_goes_to_the_spool_and_the_job_names_it() -> None:
    hub = SpeechHub()
    assert post(hub).json() == {"text": " Hello there,\n world.\n"}
    draft = hub.drafts[0]
    sha = hashlib.sha256(b"sound").hexdigest()
    assert (draft.kind, draft.task, draft.priority, draft.waited) == (Kind.STT, "transcribe", Priority.INTERACTIVE, True)
    assert draft.blobs == (sha,) and hub.blobs[sha] == b"sound"
    assert as_dict(draft.payload)["blob"] == sha and as_dict(draft.payload)["filename"] == "a.wav"
    assert as_dict(draft.payload)["options"]["language"] == "en", "whisper-server's default"


@pytest.mark.parametrize("path", ["/inference", "/v1/audio/transcriptions", "/v1/audio/translations"])
def test_long_sound_is_a_large_call(tmp_path: Path, path: str) -> None:
    hub = SpeechHub()
    minute = np.concatenate([silence(61), jfk()])
    for name, samples in (("long", minute), ("short", jfk())):
        for file in (
            write_wav(tmp_path / f"{name}.wav", samples),
            encode(tmp_path / f"{name}.flac", samples, "flac", 16000),
        ):
            post(hub, path, file.read_bytes())
    post(hub, path, bytes(600_000))
    post(hub, path, JFK.read_bytes(), stream="true")
    post(hub, path, (tmp_path / "long.wav").read_bytes(), stream="true")
    large, caller = Priority.LARGE_REQUEST, Priority.INTERACTIVE
    assert [d.priority for d in hub.drafts] == [large, large, caller, caller, large, caller, large]


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"language": "zh-CN"}, {"language": "zh-Hans"}),
        ({"language": "zh_TW"}, {"language": "zh-TW"}),
        ({"language": "en-GB"}, {"language": "en"}),
        ({"audio_track": " 2 "}, {"audio_track": "2"}),
        ({"language": "Chinese"}, {"language": "zh"}),
        ({"language": ""}, {"language": "auto"}),
        ({"translate": "yes", "vad": "y"}, {"translate": True, "vad": True}),
        ({"detect_language": "1"}, {"detect_language": True}),
        ({"translate": "nope"}, {"translate": False}),
        (
            {"temperature": "0.2", "best_of": "5", "beam_size": "-1"},
            {"temperature": 0.2, "best_of": 5, "beam_size": -1},
        ),
        ({"offset_t": "1000", "duration": "2000.0"}, {"offset_t": 1000, "duration": 2000}),
        ({"suppress_non_speech": "true"}, {"suppress_nst": True}),
        ({"prompt": "Kennedy"}, {"prompt": "Kennedy"}),
        ({"entropy_thold": "2.8", "vad_threshold": "0.4"}, {"entropy_thold": 2.8, "vad_threshold": 0.4}),
        ({"max_len": "20"}, {"max_len": 20, "token_timestamps": True}),
        ({"temperature_inc": "0"}, {"temperature_inc": 0.0}),
        ({"temperature_inc": "0.05"}, {"temperature_inc": 0.05}),
        ({"vad_min_silence_duration_ms": "10000"}, {"vad_min_silence_duration_ms": 10_000}),
        ({"split_on_word": "true"}, {"max_len": 60, "split_on_word": True, "token_timestamps": True}),
        ({"response_format": "verbose_json"}, {"max_len": 60, "token_timestamps": True}),
        ({"response_format": "verbose_json", "no_timestamps": "true"}, {"token_timestamps": False}),
        ({"nonsense": "ignored", "temperature_inc": " "}, {"token_timestamps": False}),
    ],
)
def test_fields_arrive_with_their_types(fields: dict[str, str], wanted: dict[str, Any]) -> None:
    hub = SpeechHub()
    assert post(hub, **fields).status_code == 200
    options = hub.drafts[0].payload.options
    assert {key: getattr(options, key) for key in wanted} == wanted
    assert all(type(getattr(options, key)) is type(value) for key, value in wanted.items())


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"language": "xx"}, "language"),
        ({"response_format": "xml"}, "response_format"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": "1.5"}, "temperature"),
        ({"best_of": "0"}, "best_of"),
        ({"best_of": "2.5"}, "best_of"),
        ({"beam_size": "9"}, "beam_size"),
        ({"audio_ctx": "-1"}, "audio_ctx"),
        ({"duration": "nan"}, "duration"),
        ({"offset_t": "1_0"}, "offset_t"),
        ({"max_len": "9" * 30}, "max_len"),
        ({"no_speech_thold": "inf"}, "no_speech_thold"),
        ({"prompt": "a\0b"}, "prompt"),
        ({"temperature_inc": "1e-9"}, "temperature_inc"),
        ({"temperature_inc": "0.049"}, "temperature_inc"),
        ({"vad_min_silence_duration_ms": "10001"}, "vad_min_silence_duration_ms"),
        ({"vad_min_silence_duration_ms": "2147483647"}, "vad_min_silence_duration_ms"),
    ],
)
def test_a_wrong_field_is_a_400_that_names_it(fields: dict[str, str], name: str) -> None:
    hub = SpeechHub()
    answer = post(hub, **fields)
    assert answer.status_code == 400 and not hub.drafts
    assert list(answer.json()) == ["error"] and f'"{name}"' in answer.json()["error"]
    other = post(hub, "/v1/audio/transcriptions", **fields)
    assert other.status_code == 400 and other.json()["error"]["type"] == "invalid_request_error"


def test_what_is_no_form_or_has_no_file_is_refused() -> None:
    hub = SpeechHub()
    http = client(hub)
    kind = {"content-type": "multipart/form-data; boundary=x"}
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    for body, headers in [
        (b"", {}),
        (b'{"file": 1}', {"content-type": "application/json"}),
        (b"", kind),
        (b"nonsense", kind),
        (part + b"12", kind),
        (b"--x--\r\n", {"content-type": "multipart/form-data"}),
        (part + b"1\r\n" + part + b"2\r\n--x--\r\n", kind),
    ]:
        answer = http.post("/inference", content=body, headers=headers)
        assert answer.status_code == 400, (body, answer.text)
        assert isinstance(answer.json()["error"], str)
    assert "file" in post(hub, file=None).json()["error"]
    assert not hub.drafts
    assert http.post("/inference", content=part + b"12\r\n--x--\r\n", headers=kind).status_code == 200
    assert hub.blobs[hashlib.sha256(b"12").hexdigest()] == b"12"


@pytest.mark.parametrize("name", ["undefined''a", "idna''a", "utf-8''%ff", "nonsense''a", "utf-8'"])
def test_a_file_whose_name_is_in_no_coding_is_taken(name: str) -> None:
    hub = SpeechHub()
    body = f"--x\r\nContent-Disposition: form-data; name=file; filename*={name}\r\n\r\nsound\r\n--x--\r\n".encode()
    answer = client(hub).post("/inference", content=body, headers={"content-type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 200 and hub.blobs[hub.drafts[0].blobs[0]] == b"sound"


def test_a_large_upload_streams_and_one_past_the_limit_is_a_413() -> None:
    hub = SpeechHub()
    data = bytes(range(256)) * 40_000
    assert post(hub, file=data).status_code == 200
    assert hub.blobs[hashlib.sha256(data).hexdigest()] == data

    def dribble() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(100):
            yield bytes(1000)

    answer = client(hub, body_bytes=50_000).post(
        "/inference", content=dribble(), headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert answer.status_code == 413
    assert client(hub, body_bytes=50_000).post("/inference", files={"file": data}).status_code == 413
    assert post(hub, prompt="x" * (1 << 21)).status_code == 413


def test_a_full_disk_is_a_507_and_not_sound_a_415() -> None:
    hub = SpeechHub()
    hub.full = True
    answer = post(hub, file=bytes(1 << 20))
    assert answer.status_code == 507 and "disk is full" in answer.json()["error"]
    broken = SpeechHub(UnsupportedMedia("a.wav is not a sound or video file that can be read."))
    assert (post(broken).status_code, post(broken).json()) == (
        415,
        {"error": "a.wav is not a sound or video file that can be read."},
    )


# -- shapes


def test_the_five_formats_are_whisper_servers() -> None:
    hub = SpeechHub()
    text = post(hub, response_format="text")
    assert (text.text, text.headers["content-type"]) == (" Hello there,\n world.\n", "text/plain; charset=utf-8")
    srt = post(hub, response_format="srt", offset_n="4")
    assert srt.headers["content-type"] == "application/x-subrip"
    assert srt.text == ("5\n00:00:00,000 --> 00:00:02,500\n Hello there,\n\n6\n00:00:02,500 --> 00:01:01,250\n world.\n\n")
    vtt = post(hub, response_format="vtt")
    assert vtt.headers["content-type"].startswith("text/vtt")
    assert vtt.text.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:02.500\n Hello there,\n\n")
    verbose = post(hub, response_format="verbose_json").json()
    assert list(verbose) == [
        "task",
        "language",
        "duration",
        "text",
        "segments",
        "detected_language",
        "detected_language_probability",
        "language_probabilities",
    ]
    assert (verbose["task"], verbose["language"], verbose["detected_language"]) == ("transcribe", "chinese", "chinese")
    assert set(verbose["segments"][0]) == {
        "id",
        "text",
        "start",
        "end",
        "tokens",
        "words",
        "temperature",
        "avg_logprob",
        "no_speech_prob",
    }
    plain = post(hub, response_format="verbose_json", no_language_probabilities="1", no_timestamps="1").json()
    assert "language_probabilities" not in plain and "start" not in plain["segments"][0]
    assert post(hub, response_format="verbose_json", translate="true").json()["task"] == "translate"
    cut = SpeechHub({**RESULT, "truncated": "a.wav breaks off after 6.2 of 11.0 seconds."})
    assert post(cut).json()["truncated"] == "a.wav breaks off after 6.2 of 11.0 seconds."


def test_openais_shapes() -> None:
    hub = SpeechHub()
    path = "/v1/audio/transcriptions"
    assert post(hub, path, model="whisper-1").json() == {
        "text": "Hello there, world.",
        "usage": {"type": "duration", "seconds": 61.25},
    }
    assert as_dict(hub.drafts[0].payload)["options"]["language"] == "auto"
    verbose = post(hub, path, response_format="verbose_json").json()
    assert "words" not in verbose and "words" not in verbose["segments"][0] and verbose["language"] == "chinese"
    grains = "timestamp_granularities[]"
    words = post(hub, path, response_format="verbose_json", **{grains: "word"}).json()
    assert "segments" not in words and words["words"] == SEGMENTS[0]["words"] and as_dict(hub.drafts[-1].payload)["words"]
    both = post(hub, path, response_format="verbose_json", **{grains: ["word", "segment"]}).json()
    assert "segments" in both and "words" in both
    for query in ({grains: "word"}, {grains: "letter", "response_format": "verbose_json"}):
        wrong = post(hub, path, **query)
        assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "timestamp_granularities"
    assert post(hub, path, response_format="text").text == "Hello there, world.\n"
    assert "--> 00:00:02,500\nHello there,\n" in post(hub, path, response_format="srt").text
    assert as_dict(hub.drafts[-1].payload)["words"], "cues follow the words' times"
    translated = post(hub, "/v1/audio/translations", response_format="verbose_json").json()
    assert (translated["task"], translated["language"]) == ("translate", "english")
    assert as_dict(hub.drafts[-1].payload)["options"]["translate"] is True


PATH = "/v1/audio/transcriptions"


def test_log_probabilities_are_given_to_who_includes_them() -> None:
    token = {"token": " Hello", "bytes": list(b" Hello"), "logprob": -0.25}
    hub = SpeechHub({**RESULT, "segments": [{**SEGMENTS[0], "logprobs": [token]}, {**SEGMENTS[1], "logprobs": [token]}]})
    body = post(hub, PATH, **{"include[]": ["logprobs"]}).json()
    assert body["logprobs"] == [token, token] and as_dict(hub.drafts[-1].payload)["logprobs"] is True
    assert "logprobs" not in post(SpeechHub(), PATH).json()
    hub.script[1:3] = [SegmentEnded(segment=segment) for segment in hub.script[-1].segments]
    events = _events(post(hub, PATH, stream="true", **{"include[]": ["logprobs"]}))
    assert [event["logprobs"] for event in events] == [[token], [token], [token, token]]
    for query in ({"include[]": "logprobs", "response_format": "srt"}, {"include[]": "words"}, {"include": "x"}):
        wrong = post(hub, PATH, **query)
        assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "include"


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"chunking_strategy": "auto"}, {"vad": True}),
        ({"chunking_strategy": '{"type": "server_vad"}'}, {"vad": True}),
        (
            {"chunking_strategy": '{"type": "server_vad", "threshold": 0.3, "silence_duration_ms": 900}'},
            {"vad": True, "vad_threshold": 0.3, "vad_min_silence_duration_ms": 900},
        ),
        (
            {"chunking_strategy[type]": "server_vad", "chunking_strategy[prefix_padding_ms]": "200"},
            {"vad": True, "vad_speech_pad_ms": 200},
        ),
        ({"languages[]": ["de", "English"]}, {"language": "auto", "candidate_languages": ["de", "en"]}),
        ({"languages[]": ["zh-TW"]}, {"language": "zh-TW"}),
        ({"keywords[]": ["Kennedy", " Oval Office "]}, {"prompt": "Kennedy, Oval Office."}),
        ({"keywords[]": ["Kennedy"], "prompt": "A speech."}, {"prompt": "Kennedy. A speech."}),
        ({"audio_track": "de"}, {"audio_track": "de"}),
        ({"language": "zh-Hant"}, {"language": "zh-Hant"}),
    ],
)
def test_what_openais_clients_can_ask_for_is_done(fields: dict[str, Any], wanted: dict[str, Any]) -> None:
    hub = SpeechHub()
    assert post(hub, PATH, **fields).status_code == 200
    options = as_dict(hub.drafts[0].payload)["options"]
    assert {key: options.get(key) for key in wanted} == wanted


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"chunking_strategy": "always"}, "chunking_strategy"),
        ({"chunking_strategy": "[1"}, "chunking_strategy"),
        ({"chunking_strategy": '{"type": "client_vad"}'}, "chunking_strategy"),
        ({"chunking_strategy": '{"type": "server_vad", "threshold": 3}'}, "chunking_strategy"),
        ({"chunking_strategy[threshold]": "0.3"}, "chunking_strategy"),
        ({"languages[]": ["xx"]}, "language"),
        ({"keywords[]": ["a\0"]}, "keywords"),
        ({"response_format": "diarized_json"}, "response_format"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    hub = SpeechHub()
    answer = post(hub, PATH, **fields)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param and not hub.drafts


def test_speakers_are_not_told_apart_and_that_is_said() -> None:
    answer = post(SpeechHub(), PATH, **{"known_speaker_names[]": ["agent"]})
    assert answer.status_code == 501 and "known_speaker_names" in answer.json()["error"]["message"]


def test_silence_claims_no_language() -> None:
    nobody = {"text": "", "language": "", "language_name": "", "duration": 9.0, "segments": [], "ms": 1.0}
    hub = SpeechHub(nobody)
    theirs = post(hub, response_format="verbose_json", language="auto").json()
    assert theirs["language"] == "" and "detected_language" not in theirs and theirs["segments"] == []
    openais = post(hub, PATH, response_format="verbose_json").json()
    assert openais["language"] == "" and openais["text"] == ""


def test_the_form_is_documented_with_the_bounds_that_hold() -> None:
    schema = client(SpeechHub()).get("/openapi.json").json()
    form = schema["paths"]["/inference"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["properties"]["beam_size"] == {"type": "integer", "minimum": -1, "maximum": 8}
    assert form["properties"]["translate"] == {"type": "boolean"} and "audio_track" in form["properties"]
    fields = {field.name for field in msgspec.structs.fields(TranscriptionOptions)}
    assert fields - set(form["properties"]) == {"candidate_languages"}, "one table"


def test_hours_of_subtitles_are_written_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[bool] = []
    segments = [{**SEGMENTS[0], "id": i, "start": i * 3.0, "end": i * 3.0 + 2} for i in range(3000)]
    for form in ("srt", "vtt", "verbose_json"):
        for path in ("/inference", PATH):
            hub = SpeechHub({**RESULT, "segments": segments})
            name = "to_whisper_server" if path == "/inference" else "to_openai"
            module = "batch.api.speech." + ("whisper_server_routes" if path == "/inference" else "openai_routes")
            write = getattr(importlib.import_module(module), name)

            def watched(*args: Any, write: Any = write, **more: Any) -> Any:
                with contextlib.suppress(RuntimeError):
                    asyncio.get_running_loop()
                    threads.append(False)
                return write(*args, **more)

            monkeypatch.setattr(f"{module}.{name}", watched)
            assert post(hub, path, response_format=form).status_code == 200
    assert threads == [], "no event loop runs where they are written"


def _events(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]


def test_a_stream_gives_a_delta_a_segment_and_then_the_whole_text() -> None:
    started, first, second, result = SpeechHub().script
    again = [started, first]
    for script, said in (([*again, second, result], "true"), ([result], "yes"), ([*again, *again, result], "on")):
        hub = SpeechHub()
        hub.script = script
        answer = post(hub, "/v1/audio/transcriptions", stream=said)
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = _events(answer)
        assert [e["type"] for e in events] == ["transcript.text.delta"] * 2 + ["transcript.text.done"]
        assert "".join(e["delta"] for e in events[:2]) == events[2]["text"] == "Hello there, world."
        assert events[2]["usage"]["output_tokens"] == 3


def test_load_confirms_the_model_that_is_there_and_refuses_another() -> None:
    http = client(SpeechHub())
    for name in ("whisper-base", "/models/ggml-base.bin", "models/ggml-base.bin"):
        answer = http.post("/load", files={"model": (None, name)})
        assert (answer.status_code, answer.text) == (200, "Load was successful!")
    other = http.post("/load", files={"model": (None, "models/ggml-large.bin")})
    assert other.status_code == 501 and "stt.model" in other.json()["error"]
    assert http.post("/load", files={"x": (None, "1")}).status_code == 400


def test_a_job_that_fails_without_a_reason_is_a_500_with_a_sentence() -> None:
    answer = post(SpeechHub(BatchError("whisper.cpp failed with code -6 (no reason given).")))
    assert answer.status_code == 500 and answer.json() == {"error": "whisper.cpp failed with code -6 (no reason given)."}
