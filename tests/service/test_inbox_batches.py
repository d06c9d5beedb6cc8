"""Files of batch requests that are dropped into the inbox, with a real service behind them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import batch
from running_service import WEIGHTLESS, RunningService, wait_until

SCHEMA = json.loads((Path(batch.__file__).parent / "data" / "outbox.schema.json").read_text())
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with RunningService(tmp_path_factory.mktemp("home"), WEIGHTLESS) as running:
        yield running.ready()


def request_line(custom_id: str, text: str = "hello", url: str = CHAT, **body: Any) -> str:
    body = {"messages": [{"role": "user", "content": text}], **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body}) + "\n"


def drop(service: RunningService, name: str, text: str) -> Path:
    """A file that appears whole, as a careful program's does."""
    partial = service.inbox / f".{name}.part"
    partial.write_text(text)
    return partial.rename(service.inbox / name)


def wait_for_document(service: RunningService, name: str) -> dict[str, Any]:
    path = service.outbox / name
    wait_until(path.exists, f"{name} in the outbox")
    document: dict[str, Any] = json.loads(path.read_text())
    jsonschema.validate(document, SCHEMA)
    return document


def ids_of(path: Path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in path.read_text().splitlines()]


def test_a_file_of_requests_in_the_inbox_has_its_answers_and_its_errors_in_the_outbox(service: RunningService) -> None:
    lines = [request_line(f"n{n}", f"word {n}") for n in range(20)] + [request_line("wrong", temperature="hot")]
    drop(service, "work.jsonl", "".join(lines))
    document = wait_for_document(service, "work.jsonl.json")
    assert (document["kind"], document["status"], document["endpoint"]) == ("batch", "completed", CHAT)
    assert document["request_counts"] == {"total": 21, "completed": 20, "failed": 1}
    assert sorted(ids_of(service.outbox / "work.jsonl.output.jsonl")) == sorted(f"n{n}" for n in range(20))
    assert ids_of(service.outbox / "work.jsonl.errors.jsonl") == ["wrong"]
    status, shown = service.get("vlm", f"/v1/batches/{document['batch']}")
    assert (status, shown["status"]) == (200, "completed"), "every port knows the batch"
    assert service.get("vlm", f"/v1/files/{shown['input_file_id']}")[1]["filename"] == "work.jsonl"


def test_the_same_requests_dropped_again_are_not_answered_again(service: RunningService) -> None:
    text = request_line("only", "asked once")
    drop(service, "first.jsonl", text)
    first = wait_for_document(service, "first.jsonl.json")
    drop(service, "second.jsonl", text)
    second = wait_for_document(service, "second.jsonl.json")
    assert (first["linked"], second["linked"]) == (False, True) and first["batch"] == second["batch"]
    assert ids_of(service.outbox / "second.jsonl.output.jsonl") == ["only"]
    assert not (service.outbox / "second.jsonl.errors.jsonl").exists(), "a file with no line is not made"


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("twice.jsonl", request_line("a") + request_line("a"), "line 2: The custom_id 'a' stands in an earlier line too"),
        ("unserved.jsonl", request_line("a", url="/v1/moderations"), "/v1/moderations, which is not served in batches"),
    ],
)
def test_requests_that_cannot_be_a_batch_get_an_error_that_says_why(
    service: RunningService, name: str, text: str, reason: str
) -> None:
    drop(service, name, text)
    assert reason in wait_for_document(service, f"{name}.error.json")["error"]


def test_json_lines_that_are_no_requests_are_a_text(service: RunningService) -> None:
    drop(service, "log.jsonl", '{"level": "info", "url": "/"}\n{"level": "warning"}\n')
    assert wait_for_document(service, "log.jsonl.json")["kind"] == "text"


def test_requests_that_are_dropped_anew_take_the_place_of_those_that_run(service: RunningService) -> None:
    drop(service, "changing.jsonl", "".join(request_line(f"old{n}", "one two three", seed=300) for n in range(200)))

    def running() -> Any:
        batches = service.get("vlm", "/v1/batches")[1]["data"]
        return next((one["id"] for one in batches if one["status"] == "in_progress"), None)

    old = wait_until(running, "the first batch runs")
    drop(service, "changing.jsonl", request_line("new"))
    document = wait_for_document(service, "changing.jsonl.json")
    assert document["batch"] != old and ids_of(service.outbox / "changing.jsonl.output.jsonl") == ["new"]
    wait_until(lambda: service.get("vlm", f"/v1/batches/{old}")[1]["status"] == "cancelled", "the old batch is cancelled")
