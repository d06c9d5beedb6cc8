"""The whole path on real input: small real models, a service started as a user starts it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import av
import jsonschema
import pytest
from openai import OpenAI
from PIL import Image

from drill_home import drop
from paths import DATA, ROOT
from running_service import RunningService, wait_until

JFK = "and so my fellow americans ask not what your country can do for you ask what you can do for your country"


def result(service: RunningService, name: str) -> dict[str, Any]:
    """The JSON of a dropped file, once it is there."""
    path = service.outbox / f"{name}.json"
    wait_until(path.exists, f"{path.name}; the outbox holds {sorted(p.name for p in service.outbox.rglob('*'))}", 90)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def jpeg(sample: str, folder: Path) -> bytes:
    path = folder / "picture.jpg"
    Image.open(DATA / f"sample-{sample}.png").convert("RGB").save(path, quality=92)
    return path.read_bytes()


def mp3(folder: Path) -> bytes:
    path = folder / "speech.mp3"
    with av.open(str(DATA / "jfk.wav")) as source, av.open(str(path), "w") as target:
        stream = target.add_stream("mp3", rate=44100)
        stream.layout = "mono"
        resampler = av.AudioResampler(format="s16p", layout="mono", rate=44100)
        for frame in source.decode(audio=0):
            for piece in resampler.resample(frame):
                target.mux(stream.encode(piece))
        target.mux(stream.encode(None))
    return path.read_bytes()


def word_error_rate(heard: str, said: str) -> float:
    """Levenshtein distance in words, by words said."""
    a, b = (re.sub(r"[^\w\s]", "", text.lower()).split() for text in (heard, said))
    row = list(range(len(b) + 1))
    for i, word in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (word != other))
    return row[-1] / len(b)


def test_a_jpg_an_mp3_and_a_txt_dropped_into_the_inbox_have_their_results_in_the_outbox(
    service: RunningService, tmp_path: Path
) -> None:
    drop(service, "trip/photo.jpg", jpeg("blue-triangle", tmp_path))
    drop(service, "trip/talk.mp3", mp3(tmp_path))
    drop(service, "notes.txt", b"The cat sat on the mat.")
    schema = json.loads((ROOT / "batch/data/outbox.schema.json").read_text())

    photo = result(service, "trip/photo.jpg")
    jsonschema.validate(photo, schema)
    assert photo["text"] == "a blue triangle" and photo["version"] == 1 and photo["source"] == "trip/photo.jpg"
    assert (service.outbox / "trip/photo.jpg.txt").read_text() == "a blue triangle\n"
    assert len(photo["embedding"]["vectors"][0]) == photo["embedding"]["dimensions"] == 384

    talk = result(service, "trip/talk.mp3")
    jsonschema.validate(talk, schema)
    assert word_error_rate(talk["text"], JFK) <= 0.05 and talk["language"] == "en"
    subtitles = (service.outbox / "trip/talk.mp3.srt").read_text()
    assert re.match(r"1\n00:00:00,\d{3} --> 00:00:\d\d,\d{3}\n", subtitles)
    second = re.search(r"\n00:00:(\d\d),(\d{3}) --> .*\nask what you", subtitles)
    assert second and 7.7 < int(second[1]) + int(second[2]) / 1000 < 8.7, "cues follow the words: he pauses until 8.2"
    assert not any("words" in segment for segment in talk["segments"])

    notes = result(service, "notes.txt")
    jsonschema.validate(notes, schema)
    assert len(notes["embedding"]["vectors"]) == 1

    # Noted a moment after the results stand in the outbox.
    inbox = lambda: json.loads(service.command("status", "--json").stdout)["inbox"]  # noqa: E731
    assert wait_until(lambda: (now := inbox())["waiting"] == 0 and now, "noted")["done"] >= 3
    shown = service.command("jobs", "--origin", "inbox", "--json")
    assert {"trip/photo.jpg", "trip/talk.mp3", "notes.txt"} <= {job["source"] for job in json.loads(shown.stdout)}


def test_near_sentences_have_nearer_vectors_than_far_ones(service: RunningService) -> None:
    texts = ["A man is playing a guitar.", "Someone plays an instrument.", "The stock market fell sharply today."]
    with OpenAI(base_url=service.url("embedding", "/v1"), api_key="any") as client:
        near, other, far = (item.embedding for item in client.embeddings.create(model="any", input=texts).data)
    cosine = lambda a, b: sum(x * y for x, y in zip(a, b, strict=True))  # noqa: E731
    assert cosine(near, other) > cosine(near, far) + 0.2


def test_an_unknown_or_broken_file_gets_one_sentence_and_does_not_come_again(service: RunningService) -> None:
    drop(service, "thing.pdf", b"%PDF-1.7 nothing")
    drop(service, "cut.png", (DATA / "sample-red-circle.png").read_bytes()[:200])
    for name in ("thing.pdf", "cut.png"):
        path = service.outbox / f"{name}.error.json"
        wait_until(path.exists, path.name)
        error = json.loads(path.read_text())
        assert error["version"] == 1 and error["source"] == name and error["error"].endswith("."), error
        assert "\n" not in error["error"]


def test_batch_submit_waits_and_prints_what_the_models_say(service: RunningService) -> None:
    found = service.command("submit", "--wait", str(DATA / "sample-blue-triangle.png"))
    assert (found.returncode, found.stdout) == (0, "a blue triangle\n"), found.stderr
    missing = service.command("submit", "no-such-file.png")
    assert missing.returncode == 1 and "no-such-file.png" in missing.stderr and "Traceback" not in missing.stderr


def test_the_readmes_python_runs_and_says_what_the_readme_says(service: RunningService) -> None:
    readme = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    for kind, port in (("vlm", "8080"), ("embedding", "8081"), ("stt", "8082")):
        code = code.replace(f"127.0.0.1:{port}", f"127.0.0.1:{service.ports[kind]}")
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=90)
    said = re.findall(r"print\(.*\)  # (.*)", code)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines() == said == ["a red circle", "384"]


def test_every_command_the_readme_names_exists(service: RunningService) -> None:
    readme = (ROOT / "README.md").read_text()
    names = set(re.findall(r"`(?:batch )?(\w[\w-]*)`", readme.split("See and steer")[1].split("```")[0])) - {"batch"}
    assert {"jobs", "show", "submit", "retry", "cancel", "models", "config", "doctor", "gc"} <= names
    for name in sorted(names):
        found = service.command(name, "--help")
        assert found.returncode == 0 and "Usage" in found.stdout, name


def test_batch_config_tells_each_value_and_where_it_came_from(service: RunningService) -> None:
    found = json.loads(service.command("config", "--json").stdout)
    assert found["profile"] == {"value": "starter", "from": "BATCH_PROFILE"}
    assert found["stt.port"] == {"value": 8082, "from": "default"}


@pytest.mark.parametrize(
    "command",
    [
        ["status", "--home", "/nonexistent"],
        ["show", "zzz"],
        ["jobs", "--home", "/nonexistent"],
        ["retry", "zzz"],
        ["config", "--home", "/nonexistent"],
    ],
)
def test_a_wrong_command_is_one_sentence_without_a_traceback(service: RunningService, command: list[str]) -> None:
    found = service.command(*command)
    assert "Traceback" not in found.stderr
    if command[0] != "status":  # a home without a service is no error for status
        assert found.returncode == 1 and len(found.stderr.strip().splitlines()) == 1, found.stderr


def test_the_lock_files_name_no_index_and_hash_everything() -> None:
    for file in ("requirements.lock", "requirements-dev.lock", "requirements-build.lock"):
        text = (ROOT / file).read_text()
        assert "://" not in text and "--index-url" not in text and "--find-links" not in text
        pinned = re.findall(r"^[\w.-]+==", text, re.MULTILINE)
        assert len(pinned) > 3 and text.count("--hash=sha256:") >= len(pinned)
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["batch"]
