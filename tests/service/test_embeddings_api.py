"""The wire contract of the embedding port, through the clients people use, with the real MiniLM behind it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import shutil
import sqlite3
import struct
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch.settings import default_models_dir
from running_service import WEIGHTLESS, RunningService, wait_until

MODEL = default_models_dir() / "all-MiniLM-L6-v2-f16.gguf"


@dataclass
class Port:
    service: RunningService
    url: str


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    """`batch serve` with the real embedding model on one thread."""
    variables = {**WEIGHTLESS, "BATCH_EMBEDDING__MODEL": str(MODEL), "BATCH_EMBEDDING__THREADS": "1"}
    with RunningService(tmp_path_factory.mktemp("home"), variables) as service:
        yield Port(service.ready("embedding"), service.url("embedding"))


@pytest.fixture(scope="module")
def client(port: Port) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{port.url}/v1", api_key="not-needed", max_retries=0) as client:
        yield client


def ask(port: Port, path: str = "/v1/embeddings", **body: Any) -> httpx.Response:
    return httpx.post(f"{port.url}{path}", json=body, timeout=100)


def error(answer: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()["error"]
    assert body["code"] == answer.status_code
    return body


def test_the_promised_python_example_runs(client: openai.OpenAI) -> None:
    resp = client.embeddings.create(model="bge-base-zh", input="Sample text")
    vec = resp.data[0].embedding
    assert len(vec) == 384 and all(isinstance(x, float) for x in vec)
    texts = ["Text 1", "Text 2", "Text 3"]
    resp = client.embeddings.create(model="bge-base-zh", input=texts)
    vectors = [d.embedding for d in resp.data]
    assert [d.index for d in resp.data] == [0, 1, 2] and len(vectors) == 3
    assert resp.model == "bge-base-zh" and resp.object == "list" and resp.data[0].object == "embedding"
    assert resp.usage.prompt_tokens == resp.usage.total_tokens == 12


def test_the_promised_curl_example_runs(port: Port) -> None:
    curl = shutil.which("curl")
    assert curl is not None
    done = subprocess.run(
        [
            curl,
            "-sS",
            f"{port.url}/v1/embeddings",
            "-H",
            "Content-Type: application/json",
            "-d",
            '{"model":"bge-base-zh","input":"Sample text"}',
        ],
        capture_output=True,
        check=True,
        timeout=60,
    )
    body = json.loads(done.stdout)
    assert set(body) == {"model", "object", "usage", "data"} and len(body["data"][0]["embedding"]) == 384


def test_requests_and_a_body_sent_as_a_form_work_too(port: Port) -> None:
    body = requests.post(f"{port.url}/v1/embeddings", data='{"input": "Sample text"}', timeout=60).json()
    assert body["model"] == "all-MiniLM-L6-v2-f16"
    assert set(body["data"][0]) == {"embedding", "index", "object"}


def test_float_and_base64_carry_the_same_numbers(port: Port) -> None:
    floats = ask(port, input="hello", encoding_format="float").json()["data"][0]["embedding"]
    coded = ask(port, input="hello", encoding_format="base64").json()["data"][0]
    assert struct.unpack("<384f", base64.b64decode(coded["embedding"])) == pytest.approx(floats, abs=1e-7)
    assert coded["encoding_format"] == "base64"
    assert sum(x * x for x in floats) == pytest.approx(1, abs=1e-5)


def test_every_shape_of_input_is_taken(port: Port) -> None:
    def vectors(given: Any) -> list[Any]:
        return [item["embedding"] for item in ask(port, input=given).json()["data"]]

    text, ids = vectors("hello world"), vectors([101, 7592, 2088, 102])
    assert ids == text and len(vectors(["a", "b"])) == 2
    assert vectors([[101, 7592, 2088, 102]]) == text
    assert len(vectors(["hello world", [101, 102], ["hello", 2088]])) == 3
    assert len(vectors(["hello", 2088])) == 1  # one mixed token array, as llama-server has it


def test_an_empty_string_has_a_vector_of_its_special_tokens(port: Port) -> None:
    answer = ask(port, input="")
    assert answer.status_code == 200 and answer.json()["usage"] == {"prompt_tokens": 2, "total_tokens": 2}


def test_null_means_absent(port: Port) -> None:
    body = ask(port, input="x", encoding_format=None, dimensions=None, model=None, truncate=None, user=None).json()
    assert len(body["data"][0]["embedding"]) == 384


@pytest.mark.parametrize(
    "body, sentence",
    [
        ({}, '"input" or "content" must be provided'),
        ({"input": None}, '"input" or "content" must be provided'),
        ({"input": []}, '"input" must not be empty'),
        ({"input": 5}, '"input" must be a string'),
        ({"input": True}, '"input" must be a string'),
        ({"input": {"text": "x"}}, '"input" must be a string'),
        ({"input": ["a", None]}, "item 1"),
        ({"input": ["a", True]}, "item 1"),
        ({"input": ["a", []]}, "item 1"),
        ({"input": [[1, 2], [1.5]]}, "item 1"),
        ({"input": [1.5]}, "item 0"),
        ({"input": [[1], [[2]]]}, "item 1"),
        ({"input": [[1], 2]}, "item 0"),
        ({"input": [[1], [30522]]}, "Item 1"),
        ({"input": [-1]}, "-1"),
        ({"input": "x", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "x", "encoding_format": 5}, "encoding_format"),
        ({"input": "x", "dimensions": 100}, "dimensions"),
        ({"input": "x", "dimensions": "many"}, "dimensions"),
        ({"input": "x", "dimensions": 0}, "dimensions"),
        ({"input": "x", "truncate": "yes"}, "truncate"),
        ({"input": "x", "input_type": "question"}, "input_type"),
        ({"input": [[101, 102]], "input_type": "query"}, "Item 0"),
    ],
)
def test_a_wrong_request_is_a_400_that_names_what_is_wrong(port: Port, body: dict[str, Any], sentence: str) -> None:
    answer = ask(port, **body)
    assert answer.status_code == 400
    assert sentence in error(answer)["message"] and error(answer)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b'"text"',
        b"[]",
        b"\xff\xfe",
        b'{"input": "\\ud800"}',
        b'{"input":' + b"[" * 5000,
        b'{"input": NaN}',
    ],
)
def test_a_body_that_is_no_object_is_a_400(port: Port, body: bytes) -> None:
    answer = httpx.post(f"{port.url}/v1/embeddings", content=body)
    assert answer.status_code == 400 and error(answer)["message"]


def test_too_long_is_a_400_naming_item_tokens_and_limit(port: Port, client: openai.OpenAI) -> None:
    answer = ask(port, input=["fine", "word " * 600])
    body = error(answer)
    assert answer.status_code == 400 and body["type"] == "exceed_context_size_error"
    assert (body["index"], body["n_prompt_tokens"], body["n_ctx"]) == (1, 602, 512)
    assert "Item 1" in body["message"] and "602" in body["message"] and "512" in body["message"]
    with pytest.raises(openai.BadRequestError, match="602"):
        client.embeddings.create(model="m", input="word " * 600)


def test_truncate_is_asked_for_by_the_request(client: openai.OpenAI) -> None:
    resp = client.embeddings.create(model="m", input="word " * 600, extra_body={"truncate": True})
    assert resp.usage.prompt_tokens == 512


@pytest.mark.parametrize("path", ["/embedding", "/embeddings"])
def test_the_native_routes_answer_in_llama_servers_shape(port: Port, path: str) -> None:
    body = ask(port, path, content=["a", "b"]).json()
    assert [item["index"] for item in body] == [0, 1]
    assert len(body[1]["embedding"]) == 1 and len(body[1]["embedding"][0]) == 384
    assert ask(port, path, input="a").json()[0]["embedding"][0] == ask(port, input="a").json()["data"][0]["embedding"]
    assert isinstance(ask(port, content="a").json(), list)


@pytest.mark.parametrize("path", ["/v1/rerank", "/v1/reranking", "/rerank", "/reranking"])
def test_rerank_is_not_supported_and_says_so(port: Port, path: str) -> None:
    answer = ask(port, path, query="a", documents=["b"])
    assert answer.status_code == 501 and error(answer)["type"] == "not_supported_error"


@pytest.mark.parametrize("ids", [[[9906, 1917]], [9906, 1917], [[15339]], [[9906, 1917], [30522, 99999]]])
def test_token_ids_of_another_vocabulary_are_a_400_that_says_what_to_set(port: Port, ids: Any) -> None:
    """What LangChain's OpenAIEmbeddings sends by default: ids of OpenAI's vocabulary."""
    answer = ask(port, input=ids, model="text-embedding-ada-002", encoding_format="base64")
    assert answer.status_code == 400
    assert "check_embedding_ctx_length=False" in error(answer)["message"]


def test_texts_are_tokenised_as_the_reference_does(port: Port) -> None:
    base64_text = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9w" * 16
    tokens = {base64_text: 3, "안녕하세요": 14, "हिन्दी में": 8, "a\u0085b": 3}
    for text, count in tokens.items():
        assert ask(port, input=text).json()["usage"]["prompt_tokens"] == count
        assert len(ask(port, "/tokenize", content=text, add_special=True).json()["tokens"]) == count


def test_a_query_is_asked_for_by_the_request(client: openai.OpenAI) -> None:
    resp = client.embeddings.create(model="m", input="Sample text", extra_body={"input_type": "query"})
    assert resp.usage.prompt_tokens == 4, "this model knows no prefix"


def test_a_body_of_millions_of_empty_lists_is_refused_while_other_ports_answer(port: Port) -> None:
    body = b'{"input":[' + b"[]," * 21_000_000 + b"[]]}"
    slowest = 0.0
    with ThreadPoolExecutor(1) as pool, httpx.Client() as others:
        refused = pool.submit(httpx.post, f"{port.url}/v1/embeddings", content=body, timeout=100)
        while not refused.done():
            begun = time.monotonic()
            assert others.get(f"{port.service.url('stt')}/health").status_code == 200
            slowest = max(slowest, time.monotonic() - begun)
    assert refused.result().status_code == 400 and "item 0" in error(refused.result())["message"]
    assert slowest < 2.0, slowest


def test_a_large_call_streams_out_whole_and_in_order(port: Port, client: openai.OpenAI) -> None:
    texts = [f"{i}" for i in range(700)]
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(client.embeddings.create, model="m", input=texts)
        body = ask(port, input=texts, encoding_format="float").json()
        coded = large.result()
    assert [item["index"] for item in body["data"]] == list(range(700))
    assert len(coded.data) == 700 and coded.usage.prompt_tokens == body["usage"]["prompt_tokens"] >= 2100
    ours = np.array([item["embedding"] for item in body["data"]], np.float64)
    theirs = np.array([item.embedding for item in coded.data], np.float64)
    assert (1 - (ours * theirs).sum(axis=1)).max() < 1e-5
    for i in (0, 350, 699):
        single = np.array(ask(port, input=texts[i]).json()["data"][0]["embedding"])
        assert 1 - single @ ours[i] < 1e-5


def busy(port: Port) -> bool:
    with contextlib.closing(sqlite3.connect(port.service.home / ".batch" / "batch.db")) as database:
        found = database.execute("select count(*) from job where state = 'running'").fetchone()
    return bool(found[0])


def test_a_caller_that_hangs_up_frees_the_worker(port: Port) -> None:
    caller = http.client.HTTPConnection("127.0.0.1", port.service.ports["embedding"], timeout=60)
    caller.request("POST", "/v1/embeddings", json.dumps({"input": ["word " * 200] * 3000}))
    wait_until(lambda: busy(port), "it runs")
    caller.close()
    assert ask(port, input=["after " * 5] * 65).status_code == 200  # as patient as the call that was left
    wait_until(lambda: port.service.states("embedding", 2) == ["done", "cancelled"], "the rows say so")


def test_many_callers_at_once_each_get_their_own_vector(port: Port, client: openai.OpenAI) -> None:
    texts = [f"caller {i} asks about subject {i * 7 % 13}" for i in range(32)]
    alone = [client.embeddings.create(model="m", input=text).data[0].embedding for text in texts]

    def together(i: int) -> list[float]:
        return client.embeddings.create(model=f"m{i}", input=texts[i]).data[0].embedding

    with ThreadPoolExecutor(32) as pool:
        crowd = list(pool.map(together, range(32)))
    assert (1 - (np.array(alone) * np.array(crowd)).sum(axis=1)).max() < 1e-5


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 1 << 70) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    body=st.fixed_dictionaries(
        {}, optional=dict.fromkeys(["input", "content", "encoding_format", "dimensions", "truncate", "model"], JSON)
    )
)
def test_no_body_makes_the_service_err(port: Port, body: dict[str, Any]) -> None:
    answer = httpx.post(f"{port.url}/v1/embeddings", content=json.dumps(body), timeout=60)
    wanted = 400 if "error" in answer.json() else 200
    assert answer.status_code == wanted and ("data" in answer.json()) == (wanted == 200), answer.text


@pytest.mark.slow
def test_ten_thousand_texts_in_one_call_take_bounded_memory_and_let_a_short_call_pass(port: Port) -> None:
    pid = port.service.worker_pid("embedding")

    def resident() -> int:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") >> 20

    before = resident()
    texts = [f"{i % 97}" if i % 10 == 0 else "" for i in range(10_000)]
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(ask, port, input=texts, encoding_format="base64")
        wait_until(lambda: busy(port), "the large call runs", 30)
        assert ask(port, input="hello").status_code == 200
        assert not large.done(), "the short call has not waited for the large one"
        answer = large.result()
    assert answer.status_code == 200 and len(answer.json()["data"]) == 10_000
    assert resident() - before < 150  # MiB; the vectors are 15
