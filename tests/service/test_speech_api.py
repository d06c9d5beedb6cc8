"""batch/api/inference.py and audio.py: the fields and shapes against a played hub, then a live port with real clients."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import openai
import pytest
import requests
from fastapi.testclient import TestClient

from batch.api.app import create_app
from batch.errors import BatchError, DiskFull, UnsupportedMedia
from batch.payloads.events import SegmentEnded, Started
from batch.payloads.model_info import SpeechModelInfo
from batch.payloads.speech import TranscriptionResult, TranscriptSegment
from batch.queue.frames import End, TicketEvent
from batch.queue.jobs import Draft, Kind, Priority, State
from batch.queue.model_state import ModelState
from batch.settings import LimitSettings, Settings
from payloads import as_dict
from running_service import RunningService, wait_until
from speech_setup import JFK, JFK_SAYS, encode, jfk, silence, word_errors, write_wav

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

    def __init__(self, result: Any = RESULT) -> None:
        segments = [SegmentEnded(segment=msgspec.convert(segment, TranscriptSegment)) for segment in SEGMENTS]
        last = result if isinstance(result, BatchError) else msgspec.convert(result, TranscriptionResult)
        self.script: list[Any] = [Started(), *segments, last]
        self.drafts: list[Draft] = []
        self.blobs: dict[str, bytes] = {}
        self.full = False
        self._folder = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, self._folder)

    async def submit(self, draft: Draft, *, durable: bool = False) -> SpokenTicket:
        self.drafts.append(draft)
        return SpokenTicket(self, draft)

    async def outcome(self, job: str, type: type[TranscriptionResult], end: End | None = None) -> TranscriptionResult:
        if isinstance(self.script[-1], BatchError):
            raise self.script[-1]
        return self.script[-1]

    def model(self, kind: Kind) -> ModelState:
        return ModelState("ready", 1.0, SpeechModelInfo(model="whisper-base", path="/models/ggml-base.bin"))

    def waiting_clients(self, kind: Kind) -> int:
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
    assert (draft.kind, draft.task, draft.priority, draft.waited) == (Kind.STT, "transcribe", Priority.CALLER, True)
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
    large, caller = Priority.LARGE_CALL, Priority.CALLER
    assert [d.priority for d in hub.drafts] == [large, large, caller, caller, large, caller, large]


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"language": "zh-CN"}, {"language": "zh"}),
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


def test_openais_fields_that_change_nothing_here_are_taken() -> None:
    hub = SpeechHub()
    path = "/v1/audio/transcriptions"
    plain = post(hub, path).json()
    given = {"include[]": ["logprobs"], "chunking_strategy": "auto", "stream": "false"}
    assert post(hub, path, **given).json() == plain
    assert as_dict(hub.drafts[0].payload) == as_dict(hub.drafts[1].payload)


def test_a_stream_gives_a_delta_a_segment_and_then_the_whole_text() -> None:
    again: list[Any] = [{"type": "started"}, *({"type": "segment", "segment": s} for s in SEGMENTS[:1])]
    for script, said in (
        ([*again, {"type": "segment", "segment": SEGMENTS[1]}, RESULT], "true"),
        ([RESULT], "yes"),
        ([*again, *again, RESULT], "on"),
    ):
        hub = SpeechHub()
        hub.script = script
        answer = post(hub, "/v1/audio/transcriptions", stream=said)
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
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


# -- a live port, real model, real clients


@pytest.fixture(scope="module")
def address(service: RunningService) -> str:
    return service.url("stt")


@pytest.fixture(scope="module")
def ai(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="not-needed", max_retries=0) as made:
        yield made


def test_curl_as_in_the_products_example(address: str) -> None:
    command = [
        "curl",
        "-s",
        f"{address}/inference",
        "-F",
        f"file=@{JFK}",
        "-F",
        "language=en",
        "-F",
        "response_format=json",
    ]
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout)
    assert list(answer) == ["text"] and word_errors(answer["text"], JFK_SAYS) == 0


def test_requests_as_in_the_products_example(address: str) -> None:
    with JFK.open("rb") as file:
        answer = requests.post(
            f"{address}/inference",
            files={"file": file},
            data={"language": "en", "response_format": "json"},
            timeout=100,
        )
    assert word_errors(answer.json()["text"], JFK_SAYS) == 0


def test_verbose_json_of_the_real_thing(address: str, tmp_path: Path) -> None:
    film = encode(tmp_path / "film.mp4", jfk(), "aac", 44100, layout="stereo", picture=True)
    with film.open("rb") as file:
        body = requests.post(
            f"{address}/inference",
            files={"file": file},
            data={"language": "auto", "response_format": "verbose_json"},
            timeout=100,
        ).json()
    assert body["language"] == body["detected_language"] == "english" and abs(body["duration"] - 11) < 0.2
    assert len(body["segments"]) == 2 and body["language_probabilities"]["en"] > 0.8
    joined = "".join(word["word"] for segment in body["segments"] for word in segment["words"])
    assert word_errors(joined, JFK_SAYS) == 0


def test_the_openai_package_transcribes_translates_and_streams(ai: openai.OpenAI) -> None:
    plain = ai.audio.transcriptions.create(model="whisper-1", file=JFK)
    assert word_errors(plain.text, JFK_SAYS) == 0 and plain.usage is not None and plain.usage.type == "duration"
    verbose = ai.audio.transcriptions.create(
        model="whisper-1", file=JFK, response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    assert verbose.language == "english" and verbose.words and verbose.segments
    assert [w.word.strip(",.").lower() for w in verbose.words] == JFK_SAYS.lower().split()
    assert all(a.start <= b.start for a, b in itertools.pairwise(verbose.words))
    events = list(ai.audio.transcriptions.create(model="whisper-1", file=JFK, stream=True))
    assert events[-1].type == "transcript.text.done" and word_errors(events[-1].text, JFK_SAYS) == 0
    assert "".join(e.delta for e in events if e.type == "transcript.text.delta") == events[-1].text


def test_wrong_requests_on_the_live_port(address: str, ai: openai.OpenAI) -> None:
    answer = requests.post(f"{address}/inference", files={"file": ("a.txt", b"text " * 99)}, timeout=60)
    assert answer.status_code == 415 and answer.json()["error"].startswith("a.txt is not")
    for language in ("xx", "yue"):
        wrong = requests.post(f"{address}/inference", files={"file": JFK.read_bytes()}, data={"language": language}, timeout=60)
        assert wrong.status_code == 400 and "language" in wrong.json()["error"]
    with pytest.raises(openai.BadRequestError, match="timestamp_granularities"):
        ai.audio.transcriptions.create(model="whisper-1", file=JFK, timestamp_granularities=["word"])
    with pytest.raises(openai.APIStatusError, match="not a sound"):
        list(ai.audio.transcriptions.create(model="whisper-1", file=("x.txt", b"text " * 99), stream=True))


def test_a_clip_is_answered_before_a_long_file_that_came_first(address: str, tmp_path: Path) -> None:
    long = write_wav(tmp_path / "long.wav", np.concatenate([jfk(), silence(16)] * 5))  # several chunks
    answered: list[tuple[str, str]] = []

    def send(path: Path) -> None:
        answer = requests.post(f"{address}/inference", files={"file": path.read_bytes()}, timeout=300)
        answered.append((path.name, answer.json()["text"]))

    first = threading.Thread(target=send, args=(long,))
    first.start()
    wait_until(lambda: _busy(address), "the long file is under way", 60)
    send(JFK)
    first.join()
    assert [name for name, _ in answered] == ["jfk.wav", "long.wav"]
    assert word_errors(answered[0][1], JFK_SAYS) == 0 and word_errors(answered[1][1], " ".join([JFK_SAYS] * 5)) < 0.1


def test_a_caller_that_hangs_up_frees_the_slot(service: RunningService, address: str, tmp_path: Path) -> None:
    long = encode(tmp_path / "long.flac", np.concatenate([jfk(), silence(3)] * 20), "flac", 16000)
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="long.flac"\r\n\r\n'
        + long.read_bytes()
        + b"\r\n--x--\r\n"
    )
    host, port = re.findall(r"//([\d.]+):(\d+)", address)[0]
    with socket.create_connection((host, int(port)), timeout=60) as caller:
        caller.sendall(
            b"POST /inference HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        (job,) = wait_until(lambda: _jobs(service, "running"), "the job runs", 60)
    wait_until(lambda: job in _jobs(service, "cancelled"), "the job is cancelled in its middle")
    answer = requests.post(f"{address}/inference", files={"file": JFK.read_bytes()}, timeout=100)
    assert answer.status_code == 200 and word_errors(answer.json()["text"], JFK_SAYS) == 0


def _busy(address: str) -> bool:
    page = requests.get(f"{address}/metrics", timeout=10).text
    return bool(re.search(r"^llamacpp:requests_processing 1", page, re.MULTILINE))


def _jobs(service: RunningService, state: str) -> list[str]:
    found = service.command("jobs", "--json", "--kind", "stt", "--state", state)
    return [job["id"] for job in json.loads(found.stdout)]
