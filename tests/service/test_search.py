"""Search through the running service: what the inbox was given is found on every port, as soon as it has its result."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from batch.settings import default_models_dir
from running_service import WEIGHTLESS, RunningService, wait_until

MODEL = default_models_dir() / "all-MiniLM-L6-v2-f16.gguf"
TEXTS = {
    "notes/budget.txt": "The budget for the new bridge was cut in half last week.",
    "notes/garden.txt": "Tomatoes grow best in a sunny corner of the garden.",
    "notes/copy.txt": "The budget for the new bridge was cut in half last week.",
    "chinese.txt": "今天天气很好，我们去公园散步。",
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """`batch serve` with the real embedding model on one thread, and an inbox of texts."""
    home = tmp_path_factory.mktemp("home")
    variables = {**WEIGHTLESS, "BATCH_EMBEDDING__MODEL": str(MODEL), "BATCH_EMBEDDING__THREADS": "1"}
    with RunningService(home, variables) as service:
        service.ready("embedding")
        for name, text in TEXTS.items():
            path = home / "inbox" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        wait_until(lambda: all((home / "outbox" / f"{name}.json").exists() for name in TEXTS), "all texts have results", 60)
        yield service


def search(service: RunningService, port: str = "vlm", **parameters: Any) -> httpx.Response:
    return httpx.get(f"{service.url(port)}/v1/search", params=parameters, timeout=30)


def test_words_and_meanings_are_found_on_every_port(service: RunningService) -> None:
    for kind in ("vlm", "embedding", "stt"):
        body = search(service, kind, q="budget bridge").json()
        assert body["object"] == "list" and body["mode"] == "hybrid" and body["degraded"] is None
        hit = body["data"][0]
        assert {hit["source"], *hit["also"]} == {"notes/budget.txt", "notes/copy.txt"}
        assert hit["object"] == "search.hit" and hit["kind"] == "text" and hit["similarity"] > 0.3
        assert hit["rank"] == {"text": 1, "vector": 1} and hit["score"] == pytest.approx(2 / 61, abs=1e-5)
        assert [hit["text"][start:end] for start, end in hit["highlights"]] == ["budget", "bridge"]
    body = search(service, q="vegetables", mode="vector").json()
    assert body["data"][0]["source"] == "notes/garden.txt" and body["took_ms"]["embed"] > 0


def test_what_has_nothing_to_do_with_a_query_is_not_found_among_few_files_either(service: RunningService) -> None:
    hits = search(service, q="vegetables").json()["data"]
    assert [hit["source"] for hit in hits] == ["notes/garden.txt"]
    everything = search(service, q="vegetables", min_similarity=0).json()["data"]
    assert len(everything) >= 2, "unless one asks for it"


def test_a_json_body_has_the_same_keys(service: RunningService) -> None:
    url = f"{service.url('embedding')}/v1/search"
    body = {"query": "budget", "mode": "text", "kind": ["text", "image"], "folder": "notes", "limit": 1, "offset": 0}
    assert len(httpx.post(url, json=body, timeout=30).json()["data"]) == 1
    assert httpx.post(url, json={**body, "folder": "elsewhere"}, timeout=30).json()["data"] == []


def test_chinese_is_found_by_any_part_of_it(service: RunningService) -> None:
    for part in ("公", "公园", "我们去", "天气很好"):
        assert [hit["source"] for hit in search(service, q=part, mode="text").json()["data"]] == ["chinese.txt"]


def test_words_weigh_more_where_the_model_does_not_know_their_script(service: RunningService) -> None:
    (hit,) = [hit for hit in search(service, q="今天天气").json()["data"] if hit["rank"]["text"] == 1]
    vector_rank = hit["rank"]["vector"]
    assert hit["score"] == pytest.approx(2 / 61 + (1 / (60 + vector_rank) if vector_rank else 0), abs=1e-5)


def test_a_file_is_a_query(service: RunningService) -> None:
    body = search(service, like="notes/garden.txt", min_similarity=0).json()
    assert "notes/garden.txt" not in {hit["source"] for hit in body["data"]} and body["data"]
    assert search(service, like="nobody.txt").status_code == 404


@pytest.mark.parametrize(
    "parameters, param",
    [
        ({}, "query"),
        ({"q": ""}, "query"),
        ({"q": "!!! ,"}, "query"),
        ({"q": "-only"}, "query"),
        ({"q": "a\0b"}, "query"),
        ({"q": "x" * 2001}, "query"),
        ({"q": "x", "like": "y"}, "query"),
        ({"q": "x", "colour": "red"}, "colour"),
        ({"q": "x", "mode": "fuzzy"}, "mode"),
        ({"q": "x", "kind": "song"}, "kind"),
        ({"q": "x", "folder": "../up"}, "folder"),
        ({"q": "x", "since": "yesterday"}, "since"),
        ({"q": "x", "until": "2026-13-01"}, "until"),
        ({"q": "x", "limit": 0}, "limit"),
        ({"q": "x", "limit": 101}, "limit"),
        ({"q": "x", "limit": "many"}, "limit"),
        ({"q": "x", "limit": 100, "offset": 101}, "offset"),
        ({"q": "x", "min_similarity": 2}, "min_similarity"),
        ({"q": "x", "min_similarity": "nan"}, "min_similarity"),
    ],
)
def test_a_wrong_search_is_a_400_that_names_the_parameter(
    service: RunningService, parameters: dict[str, Any], param: str
) -> None:
    answer = search(service, **parameters)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param
    as_json = httpx.post(f"{service.url('vlm')}/v1/search", json=parameters, timeout=30)
    if parameters.get("min_similarity") != "nan":
        assert as_json.status_code == 400 and as_json.json()["error"]["param"] == param


def test_the_command_asks_the_running_service(service: RunningService) -> None:
    ended = service.command("search", "--json", "--kind", "text", "--limit", "3", "vegetables")
    body = json.loads(ended.stdout)
    assert ended.returncode == 0 and ended.stderr == "" and body["mode"] == "hybrid" and body["degraded"] is None
    assert body["data"][0]["source"] == "notes/garden.txt" and body["data"][0]["rank"] == {"text": None, "vector": 1}
    shown = service.command("search", "budget", "bridge")
    assert "notes/budget.txt" in shown.stdout and "also: notes/" in shown.stdout
    assert service.command("search", "--mode", "vector", "--kind", "image", "vegetables").returncode == 1
    assert service.command("search", "--mode", "fuzzy", "x").returncode == 2


def test_a_file_that_changes_is_found_by_its_new_words_alone(service: RunningService) -> None:
    path = service.home / "inbox" / "changing.txt"
    path.write_text("A walrus plays the trumpet.")
    wait_until(lambda: search(service, q="walrus", mode="text").json()["data"] != [], "the first text is found", 30)
    path.write_text("A penguin plays the drums.")
    wait_until(lambda: search(service, q="penguin", mode="text").json()["data"] != [], "the second text is found", 30)
    assert search(service, q="walrus", mode="text").json()["data"] == []


def database(service: RunningService) -> sqlite3.Connection:
    return sqlite3.connect(service.home / ".batch" / "batch.db", timeout=30, isolation_level=None)


def test_an_index_that_was_lost_is_made_anew_beside_the_running_service(service: RunningService) -> None:
    assert service.command("reindex", "--check").returncode == 0
    before = search(service, q="budget bridge").json()["data"]
    with contextlib.closing(database(service)) as connection:
        for table in ("entry", "entry_source", "passage", "passage_fts", "vector"):
            connection.execute(f"delete from {table}")
    assert search(service, q="budget bridge").json()["data"] == []
    assert service.command("reindex", "--check").returncode == 1
    ended = service.command("reindex")
    assert ended.returncode == 0 and "The search index is new" in ended.stdout, ended
    assert service.command("reindex", "--check").returncode == 0
    assert search(service, q="budget bridge").json()["data"] == before
    body = search(service, q="vegetables", mode="vector").json()
    assert body["data"][0]["source"] == "notes/garden.txt" and body["degraded"] is None


def test_vectors_of_another_model_are_replaced_by_the_loaded_ones(service: RunningService) -> None:
    """As after a change of the embedding model: outbox and index have vectors of the one before."""
    for path in (service.home / "outbox").rglob("*.json"):
        path.write_text(path.read_text().replace('"embedding": {"model": "', '"embedding": {"model": "former-'))
    with contextlib.closing(database(service)) as connection:
        connection.execute("update vector set model='former-' || model, v=zeroblob(length(v))")
        connection.execute("update search_meta set generation=generation+1")
    body = search(service, q="vegetables").json()
    assert body["degraded"] == "other_model" and body["data"] == []
    ended = service.command("reindex", "--embed", "--json")
    summary = json.loads(ended.stdout)
    assert summary["embedded"] == summary["files"] >= 4 and summary["without_vectors"] == 0
    for command in ("search", "reindex", "search"):  # a plain rebuild keeps the new vectors
        if command == "reindex":
            assert service.command("reindex").returncode == 0
            continue
        body = search(service, q="vegetables", mode="vector").json()
        assert body["degraded"] is None and body["data"][0]["source"] == "notes/garden.txt"


def test_without_the_embedding_model_the_text_list_answers(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("home")
    with RunningService(home, {**WEIGHTLESS, "BATCH_EMBEDDING__MODEL": str(home / "missing.gguf")}) as service:
        wait_until(lambda: search(service, q="x").json().get("degraded") == "embedding_unavailable", "it answers without")
        assert search(service, q="x", mode="vector").status_code == 503
