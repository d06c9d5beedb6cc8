"""The speech port with a real model and real clients."""

from __future__ import annotations

import itertools
import json
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
import requests

from running_service import RunningService, wait_until
from sounds import JFK, JFK_SAYS, encode, jfk, silence, write_wav
from speech_setup import word_errors

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
