"""A home that moves in the middle of its work goes on with it on the other side."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import psycopg
import pytest

from drill_home import drop
from postgres_server import PostgresServer
from running_service import RunningService, chat, wait_until

pytestmark = [pytest.mark.postgres, pytest.mark.slow]
LINES = 16


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.new_database()
    yield url
    postgres_server.empty_database(url)
    postgres_server.drop_schemas(url, "batch_moved_%")


def client_of(service: RunningService) -> openai.OpenAI:
    return openai.OpenAI(base_url=service.url("vlm", "/v1"), api_key="none", max_retries=0)


def begin_batch(service: RunningService) -> str:
    """Begin a batch that takes a while, and wait until it is in the middle; its id."""
    client = client_of(service)
    lines = [
        {"custom_id": f"line-{n}", "method": "POST", "url": "/v1/chat/completions", "body": chat(f"word {n}", pause_ms=60)}
        for n in range(LINES)
    ]
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    file = client.files.create(file=("lines.jsonl", io.BytesIO(data)), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h").id
    wait_until(lambda: counts(service, batch)["completed"] >= 3, "some lines are done")
    return batch


def counts(service: RunningService, batch: str) -> dict[str, int]:
    return dict(service.get("vlm", f"/v1/batches/{batch}")[1]["request_counts"])


def assert_done(service: RunningService, batch: str) -> None:
    """Every line of a batch is done, once."""
    client = client_of(service)
    ended: Any = wait_until(
        lambda: (row := client.batches.retrieve(batch)).status == "completed" and row, f"{batch} ends\n{service.output}"
    )
    results = [json.loads(line) for line in client.files.content(ended.output_file_id).text.splitlines()]
    assert sorted(line["custom_id"] for line in results) == sorted(f"line-{n}" for n in range(LINES))
    texts = {line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"].strip() for line in results}
    assert texts == {f"line-{n}": f"word {n}" for n in range(LINES)}


def test_what_waits_when_a_home_moves_is_done_on_the_other_side_and_nothing_is_done_twice(
    url: str, start_service: Callable[..., RunningService]
) -> None:
    service = start_service().ready()
    drop(service, "notes.txt", b"The walrus and the carpenter.")
    wait_until((service.outbox / "notes.txt.json").exists, "the text's result")
    response = client_of(service).responses.create(model="any", input="remember me")
    key = {"Idempotency-Key": "once"}
    status, first = service.call("vlm", "/v1/chat/completions", chat("only once"), headers=key)
    assert status == 200
    batch = begin_batch(service)
    refused = service.command("move-to", url)
    assert refused.returncode == 1 and "already running" in refused.stderr
    assert service.stop() == 0
    drop(service, "later.txt", b"Dropped while nobody was there.")

    moved = service.command("move-to", url, "--json")
    assert moved.returncode == 0, moved.stderr
    assert json.loads(moved.stdout)["rows"]["batch_line"] == LINES
    service.start().ready("vlm")
    assert_done(service, batch)
    wait_until((service.outbox / "later.txt.json").exists, "the file that was dropped meanwhile")
    assert "notes.txt" in service.command("search", "walrus", "--json").stdout
    assert client_of(service).responses.retrieve(response.id).output_text == response.output_text
    assert service.call("vlm", "/v1/chat/completions", chat("only once"), headers=key)[1] == first
    with psycopg.connect(url) as conn:
        query = "select count(*) from job where state = 'done' and parent = %s"
        assert conn.execute(query, (batch,)).fetchone() == (LINES,)

    second = begin_batch(service)
    service.kill()
    back = service.command("move-to", "sqlite", "--json")
    assert back.returncode == 0, back.stderr
    service.start().ready("vlm")
    assert_done(service, second)
    assert counts(service, batch) == {"total": LINES, "completed": LINES, "failed": 0}
    status_now = json.loads(service.command("status", "--json").stdout)
    assert status_now["inbox"]["done"] == 2 and status_now["running"]
    assert service.call("vlm", "/v1/chat/completions", chat("only once"), headers=key)[1] == first
    assert "notes.txt" in service.command("search", "walrus", "--json").stdout
    assert (service.home / ".batch" / "batch.db").exists() and service.stop() == 0
