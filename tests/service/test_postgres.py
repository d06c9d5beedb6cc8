"""The whole product with its jobs in PostgreSQL: what goes in by each door comes out, and what breaks comes back."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import openai
import psycopg
import pytest

from drill_home import drop
from postgres_server import PostgresServer, running_server
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


def test_a_small_real_model_answers_with_its_jobs_in_postgres(url: str, start_service: Callable[..., RunningService]) -> None:
    service = start_service(
        BATCH_DATABASE=url, BATCH_PROFILE="starter", BATCH_EMBEDDING__MODEL="", BATCH_EMBEDDING__THREADS="1"
    ).ready("embedding")
    client = openai.OpenAI(base_url=service.url("embedding", "/v1"), api_key="none", max_retries=0)
    texts = ["The cat sat on the mat.", "A cat was sitting on a rug.", "Shares fell on Monday."]
    cat, rug, shares = (one.embedding for one in client.embeddings.create(model="any", input=texts).data)
    assert len(cat) == 384 and dot(cat, rug) > dot(cat, shares) + 0.3

    drop(service, "cat.txt", texts[0].encode())
    drop(service, "shares.txt", texts[2].encode())
    for name in ("cat.txt", "shares.txt"):
        wait_until((service.outbox / f"{name}.json").exists, f"the result of {name}")
    hits = json.loads(service.command("search", "kitten", "--json").stdout)["data"]
    assert hits[0]["source"] == "cat.txt", "found by its meaning: the word does not stand in it"


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_a_service_outlives_a_kill_of_its_database(start_service: Callable[..., RunningService]) -> None:
    with running_server() as server:
        service = start_service(BATCH_DATABASE=server.new_database()).ready()
        assert service.call("vlm", "/v1/chat/completions", chat("before"))[0] == 200
        running: list[int] = []
        slow = threading.Thread(
            target=lambda: running.append(service.call("vlm", "/v1/chat/completions", chat("a b c d e f", pause_ms=400))[0])
        )
        slow.start()
        wait_until(lambda: service.get("vlm", "/slots")[1][0]["is_processing"], "the slow job runs")
        server.kill()
        status, refused = service.call("embedding", "/v1/embeddings", {"model": "any", "input": "x"})
        assert status == 503 and "database" in refused["error"]["message"], refused
        drop(service, "meanwhile.txt", b"Dropped while nobody could write it down.")
        slow.join(60)
        assert running == [200], "a worker goes on computing, and its client has the answer"
        server.start()
        wait_until((service.outbox / "meanwhile.txt.json").exists, "the file that was dropped meanwhile")
        assert wait_until(lambda: service.call("vlm", "/v1/chat/completions", chat("after"))[0] == 200, "chats go on")
        assert service.stop() == 0
