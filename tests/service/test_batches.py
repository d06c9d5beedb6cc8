"""Files, uploads and batches through OpenAI's and Anthropic's own packages, with a real service behind them."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from running_service import WEIGHTLESS, RunningService, wait_until

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def service(home: Path) -> Iterator[RunningService]:
    with RunningService(home, WEIGHTLESS) as running:
        yield running.ready()


@pytest.fixture(scope="module")
def client(service: RunningService) -> openai.OpenAI:
    return openai.OpenAI(base_url=service.url("vlm", "/v1"), api_key="none", max_retries=0)


def chat_line(custom_id: str, text: str = "hello", **body: Any) -> dict[str, Any]:
    body = {"model": "any", "messages": [{"role": "user", "content": text}], **body}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}


def jsonl(lines: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def upload(client: openai.OpenAI, data: bytes, name: str = "requests.jsonl") -> str:
    return client.files.create(file=(name, io.BytesIO(data)), purpose="batch").id


def run(client: openai.OpenAI, data: bytes, endpoint: str = CHAT, **options: Any) -> Any:
    created = client.batches.create(
        input_file_id=upload(client, data),
        endpoint=endpoint,  # type: ignore[arg-type]
        completion_window="24h",
        **options,
    )
    return ended(client, created.id)


def ended(client: openai.OpenAI, id: str) -> Any:
    def look() -> Any:
        batch = client.batches.retrieve(id)
        return batch if batch.status in ("completed", "failed", "cancelled", "expired") else None

    return wait_until(look, f"batch {id} ended", 60)


def content(client: openai.OpenAI, id: str | None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in client.files.content(id).text.splitlines()] if id else []


def test_a_batch_of_chats_runs_to_its_output_file(client: openai.OpenAI) -> None:
    batch = run(client, jsonl([chat_line(f"n{n}", f"word{n} and more") for n in range(150)]), metadata={"who": "me"})
    assert (batch.status, batch.errors, batch.error_file_id) == ("completed", None, None)
    assert batch.request_counts.model_dump() == {"total": 150, "completed": 150, "failed": 0}
    assert batch.metadata == {"who": "me"} and batch.model == "weightless", "the one that ran"
    assert batch.in_progress_at and batch.finalizing_at and batch.completed_at and batch.expires_at is None
    lines = {line["custom_id"]: line for line in content(client, batch.output_file_id)}
    assert len(lines) == 150
    first = lines["n7"]
    assert first["error"] is None and first["response"]["status_code"] == 200 and first["id"].startswith("batch_req_")
    assert first["response"]["body"]["choices"][0]["message"]["content"] == "word7 and more "
    assert batch.usage.total_tokens == sum(line["response"]["body"]["usage"]["total_tokens"] for line in lines.values())


def test_a_line_that_is_refused_stands_in_the_error_file_and_the_others_run(client: openai.OpenAI) -> None:
    lines = [
        chat_line("good"),
        chat_line("stream", stream=True),
        chat_line("bad", temperature="hot"),
        chat_line("refused", "refuse this"),
        chat_line("missing", [{"type": "file", "file": {"file_id": "file-none"}}]),  # type: ignore[arg-type]
    ]
    batch = run(client, jsonl(lines))
    assert batch.status == "completed"
    assert batch.request_counts.model_dump() == {"total": 5, "completed": 1, "failed": 4}
    assert [line["custom_id"] for line in content(client, batch.output_file_id)] == ["good"]
    errors = {line["custom_id"]: line for line in content(client, batch.error_file_id)}
    assert {name: line["response"]["status_code"] for name, line in errors.items()} == {
        "stream": 400,
        "bad": 400,
        "refused": 400,
        "missing": 404,
    }
    assert all(line["error"] is None for line in errors.values())
    assert errors["bad"]["response"]["body"]["error"]["param"] == "temperature"


def test_a_batch_of_which_every_line_is_refused_is_completed_without_output(client: openai.OpenAI) -> None:
    batch = run(client, jsonl([chat_line("one", stream=True)]))
    assert (batch.status, batch.output_file_id) == ("completed", None)
    assert len(content(client, batch.error_file_id)) == 1


@pytest.mark.parametrize(
    ("data", "code", "line"),
    [
        (b"", "empty_file", None),
        (b"\n \n", "empty_file", None),
        (jsonl([chat_line("a")]) + b"{\n", "invalid_json_line", 2),
        (jsonl([chat_line("a"), chat_line("a")]), "duplicate_custom_id", 2),
        (jsonl([{**chat_line("a"), "url": "/v1/embeddings"}]), "url_mismatch", 1),
    ],
)
def test_a_file_that_is_not_valid_fails_its_batch_and_names_the_line(
    client: openai.OpenAI, data: bytes, code: str, line: int | None
) -> None:
    batch = run(client, data)
    assert batch.status == "failed" and batch.failed_at
    assert (batch.errors.data[0].code, batch.errors.data[0].line) == (code, line)
    assert batch.output_file_id is None and batch.error_file_id is None
    assert batch.request_counts.total == 0


def test_a_bad_call_makes_no_batch(client: openai.OpenAI) -> None:
    file = upload(client, jsonl([chat_line("a")]))
    other = client.files.create(file=("a.txt", b"text"), purpose="user_data").id
    for changes, param in [
        ({"endpoint": "/v1/moderations"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"input_file_id": other}, "input_file_id"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
    ]:
        call: dict[str, Any] = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h", **changes}
        with pytest.raises(openai.BadRequestError) as error:
            client.batches.create(**call)
        assert error.value.param == param


def test_batches_are_listed_newest_first_page_by_page(client: openai.OpenAI) -> None:
    ids = [run(client, jsonl([chat_line("a")])).id for _ in range(5)]
    listed = [batch.id for batch in client.batches.list(limit=2)]
    assert listed[:5] == ids[::-1]
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize(
    ("endpoint", "body", "text"),
    [
        ("/v1/completions", {"prompt": "go on"}, lambda body: body["choices"][0]["text"]),
        ("/v1/responses", {"input": "hello"}, lambda body: body["output"][-1]["content"][0]["text"]),
        (
            "/v1/messages",
            {"max_tokens": 10, "messages": [{"role": "user", "content": "hello"}]},
            lambda body: body["content"][0]["text"],
        ),
        ("/v1/embeddings", {"input": ["a", "b"]}, lambda body: len(body["data"])),
    ],
)
def test_every_endpoint_answers_in_a_batch_as_its_route_does(
    client: openai.OpenAI, service: RunningService, endpoint: str, body: dict[str, Any], text: Callable[[Any], Any]
) -> None:
    line = {"custom_id": "only", "method": "POST", "url": endpoint, "body": {"model": "any", **body}}
    batch = run(client, jsonl([line]), endpoint)
    assert batch.status == "completed", content(client, batch.error_file_id)
    (answer,) = content(client, batch.output_file_id)
    kind = "embedding" if endpoint == "/v1/embeddings" else "vlm"
    status, direct = service.call(kind, endpoint, line["body"])
    assert status == 200
    assert text(answer["response"]["body"]) == text(direct)


def test_cancelling_ends_a_batch_with_every_line_in_one_of_its_files(client: openai.OpenAI) -> None:
    lines = [chat_line(f"n{n}", "one two three four", seed=300) for n in range(100)]
    created = client.batches.create(input_file_id=upload(client, jsonl(lines)), endpoint=CHAT, completion_window="24h")
    wait_until(lambda: client.batches.retrieve(created.id).request_counts.completed >= 1, "the first line", 30)
    assert client.batches.cancel(created.id).status == "cancelling"
    assert client.batches.cancel(created.id).status in ("cancelling", "cancelled"), "a second time changes nothing"
    batch = ended(client, created.id)
    assert batch.status == "cancelled" and batch.cancelled_at >= batch.cancelling_at
    output, errors = content(client, batch.output_file_id), content(client, batch.error_file_id)
    assert Counter(line["custom_id"] for line in output + errors) == Counter(f"n{n}" for n in range(100))
    assert {line["error"]["code"] for line in errors} == {"batch_cancelled"}
    assert client.batches.cancel(created.id).status == "cancelled"
    done = run(client, jsonl([chat_line("a")]))
    with pytest.raises(openai.ConflictError) as error:
        client.batches.cancel(done.id)
    assert error.value.response.headers["x-should-retry"] == "false"


def test_a_batch_whose_time_is_over_expires_with_every_line_in_one_of_its_files(client: openai.OpenAI, home: Path) -> None:
    lines = [chat_line(f"n{n}", "one two three four", seed=300) for n in range(100)]
    created = client.batches.create(input_file_id=upload(client, jsonl(lines)), endpoint=CHAT, completion_window="24h")
    wait_until(lambda: client.batches.retrieve(created.id).request_counts.completed >= 1, "the first line", 30)
    with contextlib.closing(sqlite3.connect(home / ".batch" / "batch.db", timeout=30)) as database, database:
        database.execute("update batch set expires_at=created_at where id=?", (created.id,))  # the window is hours long
    batch = ended(client, created.id)
    assert batch.status == "expired" and batch.expired_at
    output, errors = content(client, batch.output_file_id), content(client, batch.error_file_id)
    assert Counter(line["custom_id"] for line in output + errors) == Counter(f"n{n}" for n in range(100))
    assert output and {line["error"]["code"] for line in errors} == {"batch_expired"}
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(created.id)


def test_large_batches_do_not_starve_a_small_one(client: openai.OpenAI) -> None:
    def create(name: str, count: int, **body: Any) -> str:
        file = upload(client, jsonl([chat_line(f"{name}{n}", "a word", **body) for n in range(count)]))
        return client.batches.create(input_file_id=file, endpoint=CHAT, completion_window="24h").id

    large = [create(name, 2000, seed=2) for name in ("a", "b")]
    wait_until(lambda: all(client.batches.retrieve(id).request_counts.completed for id in large), "both large ones run", 60)
    small = ended(client, create("small", 10))
    assert small.request_counts.completed == 10
    for id in large:
        counts = client.batches.retrieve(id).request_counts
        assert 0 < counts.completed < counts.total == 2000, "both still run"
        client.batches.cancel(id)
    for id in large:
        assert ended(client, id).status == "cancelled"


def test_a_full_quota_is_507_and_leaves_no_half_file(tmp_path: Path) -> None:
    with RunningService(tmp_path, {**WEIGHTLESS, "BATCH_FILES__TOTAL_BYTES": "100000"}) as running:
        limited = openai.OpenAI(base_url=running.url("vlm", "/v1"), api_key="none", max_retries=2)
        kept = limited.files.create(file=("a.bin", b"a" * 60_000), purpose="user_data").id
        with pytest.raises(openai.InternalServerError) as error:
            limited.files.create(file=("b.bin", b"b" * 60_000), purpose="user_data")
        assert (error.value.status_code, error.value.response.headers["x-should-retry"]) == (507, "false")
        started = limited.uploads.create(bytes=30_000, filename="c", mime_type="text/plain", purpose="user_data")
        limited.uploads.parts.create(started.id, data=b"c" * 30_000)
        with pytest.raises(openai.InternalServerError):
            limited.uploads.parts.create(started.id, data=b"d" * 30_000)
        assert [file.id for file in limited.files.list()] == [kept]
        limited.files.delete(kept)
        assert limited.files.create(file=("b.bin", b"b" * 60_000), purpose="user_data").bytes == 60_000


def test_files_keep_their_bytes_and_go_when_deleted(client: openai.OpenAI) -> None:
    data = bytes(range(256)) * 1000
    file = client.files.create(
        file=("a.bin", data), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert (file.bytes, file.filename, file.purpose, file.status) == (len(data), "a.bin", "user_data", "processed")
    assert file.expires_at == file.created_at + 3600
    assert client.files.content(file.id).read() == data
    part = client.files.with_raw_response.content(file.id, extra_headers={"Range": "bytes=256-511"})
    assert part.status_code == 206 and part.content == data[256:512]
    assert file.id in [one.id for one in client.files.list(purpose="user_data")]
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_a_batch_input_needs_the_name_of_a_jsonl_file(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"Must be \.jsonl"):
        upload(client, b"{}", "requests.txt")


def test_an_upload_in_parts_becomes_a_file(client: openai.OpenAI, tmp_path: Path) -> None:
    data = jsonl([chat_line(f"n{n}") for n in range(2000)])
    path = tmp_path / "requests.jsonl"
    path.write_bytes(data)
    upload = client.uploads.upload_file_chunked(file=path, mime_type="application/jsonl", purpose="batch", part_size=50_000)
    assert upload.status == "completed" and upload.file is not None
    assert client.files.content(upload.file.id).read() == data
    with pytest.raises(openai.BadRequestError):
        client.uploads.parts.create(upload.id, data=b"more")


def test_parts_that_do_not_add_up_leave_the_upload_pending(client: openai.OpenAI) -> None:
    upload = client.uploads.create(bytes=10, filename="a.txt", mime_type="text/plain", purpose="user_data")
    part = client.uploads.parts.create(upload.id, data=b"12345")
    for wrong in ({"part_ids": [part.id]}, {"part_ids": ["part_none"]}, {"part_ids": [part.id, part.id]}):
        with pytest.raises(openai.BadRequestError):
            client.uploads.complete(upload.id, **wrong)
    rest = client.uploads.parts.create(upload.id, data=b"67890")
    with pytest.raises(openai.BadRequestError):
        client.uploads.complete(upload.id, part_ids=[rest.id, part.id], md5="0" * 32)
    done = client.uploads.complete(upload.id, part_ids=[rest.id, part.id])
    assert done.file is not None and client.files.content(done.file.id).read() == b"6789012345"
    with pytest.raises(openai.BadRequestError):
        client.uploads.cancel(upload.id)


def test_deleting_the_input_does_not_harm_its_batch(client: openai.OpenAI) -> None:
    lines = [chat_line(f"n{n}", "one two three", seed=20) for n in range(80)]
    file = upload(client, jsonl(lines))
    created = client.batches.create(input_file_id=file, endpoint=CHAT, completion_window="24h")
    client.files.delete(file)
    batch = ended(client, created.id)
    assert batch.status == "completed" and batch.request_counts.completed == 80


def test_a_picture_is_asked_about_by_its_file_id(client: openai.OpenAI) -> None:
    from paths import DATA

    picture = client.files.create(file=("a.png", (DATA / "sample-red-circle.png").read_bytes()), purpose="vision").id
    content_parts = [{"type": "text", "text": "what"}, {"type": "file", "file": {"file_id": picture}}]
    batch = run(client, jsonl([chat_line("one", content_parts)]))  # type: ignore[arg-type]
    assert batch.status == "completed" and batch.request_counts.completed == 1, content(client, batch.error_file_id)


def audio_line(custom_id: str, file_id: str, endpoint: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": endpoint, "body": {"model": "w", "file_id": file_id, **body}}


@pytest.mark.parametrize("endpoint", ["/v1/audio/transcriptions", "/v1/audio/translations"])
def test_sound_is_transcribed_by_its_file_id_as_the_route_does(
    client: openai.OpenAI, service: RunningService, endpoint: str
) -> None:
    from paths import DATA

    data = (DATA / "jfk.wav").read_bytes()
    sound = client.files.create(file=("jfk.wav", data), purpose="user_data").id
    forms = ("json", "verbose_json", "srt", "vtt", "text")
    lines = [audio_line(form, sound, endpoint, response_format=form, language="en", temperature=0) for form in forms]
    lines.append(audio_line("missing", "file-none", endpoint))
    lines.append(audio_line("wrong", sound, endpoint, response_format="mp3"))
    lines.append({**audio_line("whole", sound, endpoint), "body": {"model": "w", "file": "UklGRg=="}})
    batch = run(client, jsonl(lines), endpoint)
    answers = {line["custom_id"]: line["response"]["body"] for line in content(client, batch.output_file_id)}
    errors = {line["custom_id"]: line["response"]["status_code"] for line in content(client, batch.error_file_id)}
    assert errors == {"missing": 404, "wrong": 400, "whole": 400}
    assert batch.model == "weightless", "the one that ran"
    for form in forms:
        fields = {"model": "w", "response_format": form, "language": "en", "temperature": "0"}
        direct = httpx.post(service.url("stt", endpoint), data=fields, files={"file": ("jfk.wav", data)}).text
        assert answers[form] == (json.loads(direct) if form in ("json", "verbose_json") else direct), form


def test_files_that_lines_name_are_there_until_the_batch_ends(client: openai.OpenAI) -> None:
    from paths import DATA

    endpoint = "/v1/audio/transcriptions"
    sound = client.files.create(file=("jfk.wav", (DATA / "jfk.wav").read_bytes()), purpose="user_data").id
    lines = [audio_line(f"n{n}", sound, endpoint) for n in range(200)]
    created = client.batches.create(
        input_file_id=upload(client, jsonl(lines)),
        endpoint=endpoint,  # type: ignore[arg-type]
        completion_window="24h",
    )
    wait_until(lambda: client.batches.retrieve(created.id).request_counts.total == 200, "validated", 30)
    client.files.delete(sound)
    batch = ended(client, created.id)
    assert batch.request_counts.completed == 200, content(client, batch.error_file_id)[:1]
    late = run(client, jsonl([audio_line("late", sound, endpoint)]), endpoint)
    assert content(client, late.error_file_id)[0]["response"]["status_code"] == 404, "nothing holds it any more"


def test_anthropics_message_batches_are_the_same_jobs(service: RunningService) -> None:
    client = anthropic.Anthropic(base_url=service.url("vlm"), api_key="none", max_retries=0)
    requests: list[Any] = [
        {"custom_id": f"n{n}", "params": {"model": "any", "max_tokens": 16, "messages": [{"role": "user", "content": f"w{n}"}]}}
        for n in range(20)
    ]
    requests.append({"custom_id": "bad", "params": {"model": "any", "messages": []}})
    created = client.messages.batches.create(requests=requests)
    assert created.processing_status == "in_progress" and created.request_counts.processing == 21
    done = wait_until(
        lambda: (b := client.messages.batches.retrieve(created.id)).processing_status == "ended" and b, "the batch ended", 60
    )
    assert done.request_counts.model_dump() == {
        "processing": 0,
        "succeeded": 20,
        "errored": 1,
        "canceled": 0,
        "expired": 0,
    }
    results = {one.custom_id: one.result for one in client.messages.batches.results(created.id)}
    assert len(results) == 21
    assert results["n3"].type == "succeeded" and results["n3"].message.content[0].text == "w3 "
    assert results["bad"].type == "errored" and results["bad"].error.error.type == "invalid_request_error"
    assert created.id in [one.id for one in client.messages.batches.list(limit=5)]
    assert client.messages.batches.delete(created.id).type == "message_batch_deleted"
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.retrieve(created.id)


def test_the_command_line_runs_a_file_of_requests(service: RunningService, tmp_path: Path) -> None:
    requests = tmp_path / "my.jsonl"
    requests.write_bytes(jsonl([chat_line(f"n{n}", f"w{n}") for n in range(30)]))
    done = service.command("run", str(requests), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["status"] == "completed" and told["request_counts"] == {"total": 30, "completed": 30, "failed": 0}
    output = tmp_path / "my.output.jsonl"
    assert told["files"] == [str(output)] and len(output.read_text().splitlines()) == 30
    listed = json.loads(service.command("batches", "list", "--json").stdout)
    assert listed[0]["id"] == told["id"] and listed[0]["status"] == "completed"
    assert "30 answered" in service.command("batches", "show", told["id"]).stdout


def test_the_command_line_says_which_lines_failed_and_ends_so(service: RunningService, tmp_path: Path) -> None:
    requests = tmp_path / "my.jsonl"
    requests.write_bytes(jsonl([chat_line("good"), chat_line("bad", stream=True)]))
    done = service.command("run", str(requests), "-o", str(tmp_path / "out.jsonl"))
    assert done.returncode == 1 and "1 of 2 lines failed" in done.stderr
    assert (tmp_path / "out.errors.jsonl").exists()
    requests.write_bytes(b"not json\n")
    done = service.command("run", str(requests))
    assert done.returncode == 1 and "its first line is to be" in done.stderr and "Traceback" not in done.stderr
    requests.write_bytes(jsonl([chat_line("a"), chat_line("a")]))
    done = service.command("run", str(requests))
    assert done.returncode == 1 and "line 2: The custom_id 'a' stands in an earlier line too." in done.stderr


def test_the_command_line_comes_back_to_a_batch_that_it_left(service: RunningService, tmp_path: Path) -> None:
    requests = tmp_path / "my.jsonl"
    requests.write_bytes(jsonl([chat_line("one", "a b c", seed=50)]))
    id = service.command("run", str(requests), "--detach").stdout.strip()
    done = service.command("wait", id)
    assert done.returncode == 0 and "1 of 1 lines answered" in done.stdout
    slow = tmp_path / "slow.jsonl"
    slow.write_bytes(jsonl([chat_line(f"n{n}", "a b c d", seed=500) for n in range(50)]))
    id = service.command("run", str(slow), "--detach").stdout.strip()
    assert service.command("batches", "cancel", id).returncode == 0
    done = service.command("wait", id)
    assert done.returncode == 1 and "is cancelled" in done.stderr


def test_ctrl_c_leaves_a_batch_running_and_says_how_to_come_back(
    client: openai.OpenAI, service: RunningService, tmp_path: Path
) -> None:
    requests = tmp_path / "slow.jsonl"
    requests.write_bytes(jsonl([chat_line(f"n{n}", "a b c d", seed=100) for n in range(60)]))
    following = service.begin("run", str(requests))
    batch = wait_until(
        lambda: next((one for one in client.batches.list(limit=5) if one.status == "in_progress"), None), "it runs"
    )
    following.send_signal(signal.SIGINT)
    _, errors = following.communicate(timeout=30)
    assert following.returncode == 130 and f"`batch wait {batch.id}`" in errors and "Traceback" not in errors
    assert client.batches.retrieve(batch.id).status == "in_progress"
    client.batches.cancel(batch.id)
    assert service.command("wait", batch.id).returncode == 1


def test_the_command_line_keeps_files_for_the_api(client: openai.OpenAI, service: RunningService, tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    path.write_text("text")
    (added,) = json.loads(service.command("uploads", "add", str(path), "--json").stdout)
    assert client.files.content(added["id"]).text == "text"
    assert added["id"] in service.command("uploads", "list").stdout
    assert service.command("uploads", "remove", added["id"]).returncode == 0
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(added["id"])
