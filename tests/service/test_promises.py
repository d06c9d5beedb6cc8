"""What the product's page and the design promise, and no other test holds them to."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from batch.api.app import create_app
from batch.payloads.model_info import ChatModelInfo
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Draft, Kind, Origin, Priority, State
from batch.queue.open_store import open_store
from batch.queue.spool import Spool
from batch.settings import Settings
from drill_home import opened, state, submit
from paths import DATA, ROOT
from payloads import payload
from running_service import RunningService, wait_until

TINY = ROOT / "batch" / "data" / "tiny-gemma4v" / "tiny-gemma4v-text-f16.gguf"
Start = Callable[..., RunningService]

CHAT_BY_CURL = """curl http://127.0.0.1:8080/v1/chat/completions \\
-H "Content-Type: application/json" \\
-d '{
"model": "gemma-4-e4b",
"messages": [{"role": "user", "content": "Hello"}],
"max_tokens": 256
}'"""
SPEECH_BY_CURL = """curl http://127.0.0.1:8082/inference \\
-F "file=@audio.wav" \\
-F "language=zh" \\
-F "response_format=json\""""


def by_shell(service: RunningService, command: str, folder: Path) -> Any:
    """What a line of the product's page prints, with the ports of this service."""
    for kind, port in (("vlm", "8080"), ("embedding", "8081"), ("stt", "8082")):
        command = command.replace(f"127.0.0.1:{port}", f"127.0.0.1:{service.ports[kind]}")
    found = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, timeout=100)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")


@needs_curl
def test_the_promised_curl_line_for_chat_runs_as_it_is_written(service: RunningService, tmp_path: Path) -> None:
    answer = by_shell(service, CHAT_BY_CURL, tmp_path)
    assert answer["choices"][0]["message"]["content"] == "Hello! Send me a picture."
    assert answer["model"] == "gemma-4-e4b"


@needs_curl
@pytest.mark.slow
def test_the_promised_curl_line_for_speech_in_chinese_runs_as_it_is_written(service: RunningService, tmp_path: Path) -> None:
    shutil.copy(DATA / "jfk.wav", tmp_path / "audio.wav")
    answer = by_shell(service, SPEECH_BY_CURL, tmp_path)
    assert list(answer) == ["text"] and answer["text"].strip(), "English heard as Chinese is still some text"


def test_a_photo_s_jpeg_in_a_data_url_is_seen(service: RunningService) -> None:
    out = io.BytesIO()
    Image.open(DATA / "sample-blue-triangle.png").convert("RGB").save(out, "JPEG", quality=92)
    url = "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
    parts = [{"type": "text", "text": "Describe this photo"}, {"type": "image_url", "image_url": {"url": url}}]
    body = {"model": "gemma-4-e4b", "messages": [{"role": "user", "content": parts}], "max_tokens": 256}
    status, answer = service.call("vlm", "/v1/chat/completions", body)
    assert status == 200 and answer["choices"][0]["message"]["content"] == "a blue triangle"


@pytest.mark.parametrize("kind", list(Kind))
def test_while_a_model_loads_health_and_models_are_503_with_llama_servers_body(tmp_path: Path, kind: Kind) -> None:
    async def play() -> None:
        store = open_store(tmp_path / ".batch" / "batch.db")
        hub = Hub(store, Spool(tmp_path / "spool"), tmp_path / ".batch")
        transport = httpx.ASGITransport(create_app(kind, hub, Settings(home=tmp_path)))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            for path in ("/health", "/v1/health", "/v1/models"):
                answer = await client.get(path)
                assert answer.status_code == 503, path
                said = {"message": "Loading model", "type": "unavailable_error", "code": 503}
                assert said.items() <= answer.json()["error"].items(), path
            hub.models.update(kind, status="ready", info=ChatModelInfo(model="m", n_ctx=512, size=1))
            hub.models.mark_recorded(kind, hub.model(kind))
            for path in ("/health", "/v1/models"):
                assert (await client.get(path)).status_code == 200, path
        await hub.close()
        store.close()

    asyncio.run(play())


def test_a_job_that_waits_for_a_missing_model_is_done_once_its_file_is_put_there(start_service: Start) -> None:
    service = start_service(BATCH_VLM__MODEL="./late.gguf", BATCH_VLM__THREADS="1")
    wait_until(lambda: "late.gguf" in str(service.health("vlm")[1]), "what is missing is told")
    request = {"messages": [{"role": "user", "content": "Hello"}], "generation": {"max_tokens": 256}}
    (job,) = submit(service, Draft(payload("chat", request), Origin.BATCH, Priority.BATCH))
    assert service.health("vlm")[0] == 503 and state(service, job) is State.QUEUED
    partial = service.home / "late.part"
    shutil.copy(TINY, partial)
    partial.rename(service.home / "late.gguf")
    wait_until(lambda: state(service, job) is State.DONE, f"done\n{service.output}", 100)
    with opened(service) as store:
        done = store.job(job)
    assert done is not None and done.attempts == 1 and done.result is not None
    assert done.result.choices[0].message.content == "Hello! Send me a picture."


@pytest.mark.parametrize(("command", "status", "words"), [("status", 3, "not running"), ("jobs", 0, "")])
def test_what_is_looked_at_often_loads_no_model_library_no_web_framework_and_no_settings(
    tmp_path: Path, command: str, status: int, words: str
) -> None:
    open_store(tmp_path / ".batch" / "batch.db").close()
    found = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "batch", command, "--home", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert found.returncode == status and words in found.stdout, found.stderr
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in found.stderr.splitlines() if "|" in line}
    assert {"batch", "typer", "sqlite3"} <= loaded
    assert not loaded & {
        "llama_cpp",
        "pywhispercpp",
        "_pywhispercpp",
        "fastapi",
        "starlette",
        "uvicorn",
        "pydantic",
        "numpy",
        "sqlite_utils",
        "huey",
    }


def test_an_installed_package_holds_its_data(tmp_path: Path) -> None:
    """Built as `pip install .` builds it, without a network, from a copy as the build leaves traces."""
    source = tmp_path / "source"
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "batch", source / "batch", ignore=skipped)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    if subprocess.run([sys.executable, "-c", "import pip, hatchling"], capture_output=True).returncode:
        pytest.skip("this environment has neither pip nor hatchling")
    target = tmp_path / "installed"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "--no-compile",
            "--disable-pip-version-check",
            "--target",
            str(target),
            ".",
        ],
        cwd=source,
        check=True,
        capture_output=True,
        timeout=100,
    )

    def files(folder: Path) -> dict[str, int]:
        found = {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
        return {name: size for name, size in found.items() if "__pycache__" not in name}

    assert files(target / "batch") == files(source / "batch")
    assert {"catalog.toml", "outbox.schema.json", "silero-vad", "tiny-gemma4v"} <= {
        path.name for path in (target / "batch" / "data").iterdir()
    }
    code = (
        "import batch, batch.catalog as c; print(batch.__file__); "
        "print(sum(c.look(e, __import__('pathlib').Path('/nonexistent')).complete for e in c.entries()) > 0)"
    )
    found = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={"PYTHONPATH": str(target), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    where, complete = found.stdout.split() or (found.stderr, "")
    assert where.startswith(str(target)) and complete == "True", "the tiny model comes with the package"
