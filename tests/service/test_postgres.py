"""The whole product with its jobs in PostgreSQL: what goes in by each door comes out, and what breaks comes back."""

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

pytestmark = pytest.mark.postgres


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.new_database()
    yield url
    postgres_server.empty_database(url)


def jobs(url: str) -> dict[str, int]:
    """How many jobs are in which state."""
    with psycopg.connect(url) as conn:
        return {str(state): int(n) for state, n in conn.execute("select state, count(*) from job group by state")}


def batch_of(service: RunningService, lines: list[dict[str, Any]]) -> str:
    """Upload lines and begin a batch of them; its id."""
    client = openai.OpenAI(base_url=service.url("vlm", "/v1"), api_key="none", max_retries=0)
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    file = client.files.create(file=("lines.jsonl", io.BytesIO(data)), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h").id


def test_every_door_leads_to_postgres_and_back(url: str, start_service: Callable[..., RunningService]) -> None:
    service = start_service(BATCH_DATABASE=url).ready()
    status, answer = service.call("vlm", "/v1/chat/completions", chat("one two three"))
    assert status == 200 and answer["choices"][0]["message"]["content"].split() == ["one", "two", "three"]
    status, vectors = service.call("embedding", "/v1/embeddings", {"model": "any", "input": ["a", "b"]})
    assert status == 200 and len(vectors["data"]) == 2

    drop(service, "notes.txt", b"The walrus and the carpenter.")
    wait_until((service.outbox / "notes.txt.json").exists, "the text's result")
    found = service.command("search", "walrus", "--json")
    assert "notes.txt" in found.stdout, found

    lines = [
        {"custom_id": f"line-{n}", "method": "POST", "url": "/v1/chat/completions", "body": chat(f"word {n}")}
        for n in range(20)
    ]
    batch = batch_of(service, lines)
    ended = wait_until(
        lambda: (row := service.get("vlm", f"/v1/batches/{batch}")[1])["status"] == "completed" and row, "the batch's end"
    )
    assert ended["request_counts"] == {"total": 20, "completed": 20, "failed": 0}

    assert not (service.home / ".batch" / "batch.db").exists()
    assert jobs(url) == {"done": 24}  # the words of the search were embedded too
    told = json.loads(service.command("status", "--json").stdout)
    assert told["running"] and told["models"]["vlm"]["done_today"] == 21 and told["inbox"]["done"] == 1
    assert len(json.loads(service.command("jobs", "--json").stdout)) == 20
    assert service.stop() == 0
