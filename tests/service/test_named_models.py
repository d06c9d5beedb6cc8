"""Models besides the kinds' own: picked by name, loaded with their jobs, unloaded when they are idle."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from typing import Any

import openai

from paths import TINY_GEMMA4V
from running_service import WEIGHTLESS, RunningService, alive, wait_until

Start = Callable[..., RunningService]
TINY = TINY_GEMMA4V / "tiny-gemma4v-text-f16.gguf"


def with_model(name: str, model: str, keep_alive: str | int = "10m") -> dict[str, str]:
    """The variables of a service with one more chat model."""
    return {**WEIGHTLESS, "BATCH_MODELS": json.dumps({name: {"kind": "vlm", "model": model, "keep_alive": keep_alive}})}


def told(service: RunningService, name: str) -> Any:
    """What `batch status` says of a model by name."""
    return json.loads(service.command("status", "--json").stdout)["named_models"][name]


def status_of(service: RunningService, name: str) -> str:
    return str(told(service, name)["status"])


def test_a_requests_model_picks_one_by_exact_name_and_any_other_name_means_the_kinds_own(start_service: Start) -> None:
    models = {
        "tiny": {"kind": "vlm", "model": str(TINY), "threads": 1, "parallel": 1, "keep_alive": "1h"},
        "second": {"kind": "embedding", "model": "weightless", "keep_alive": -1},
    }
    service = start_service(**WEIGHTLESS, BATCH_MODELS=json.dumps(models)).ready()
    client = openai.OpenAI(base_url=service.url("vlm", "/v1"), api_key="any", max_retries=0)
    echo = client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "say it again"}])
    assert echo.choices[0].message.content.strip() == "say it again", "the kind's own, which has no weights, echoes"
    assert status_of(service, "tiny") == "unloaded", "nobody has asked for it yet"
    real = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "Hello"}], max_tokens=64, temperature=0
    )
    assert real.model == "tiny" and real.choices[0].message.content == "Hello! Send me a picture."
    streamed = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "Hello"}], max_tokens=64, temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices) == "Hello! Send me a picture."
    assert service.call("embedding", "/v1/embeddings", {"model": "second", "input": "x"})[0] == 200
    listed = {model["id"]: model.get("status") for model in service.get("vlm", "/v1/models")[1]["data"]}
    assert listed["tiny"] == {"value": "loaded"} and listed["second"] == {"value": "loaded"}
    with sqlite3.connect(service.home / ".batch" / "batch.db") as database:
        assert database.execute("select model, count(*) from job group by model order by model").fetchall() == [
            ("", 1),
            ("second", 1),
            ("tiny", 2),
        ]
    assert service.stop() == 0


def test_an_idle_model_is_unloaded_and_its_next_job_loads_it_again(start_service: Start) -> None:
    service = start_service(**with_model("brief", "weightless", 0)).ready()
    ask = {"model": "brief", "messages": [{"role": "user", "content": "one two"}]}
    for _ in range(2):
        status, answer = service.call("vlm", "/v1/chat/completions", ask)
        assert status == 200 and answer["choices"][0]["message"]["content"].strip() == "one two"
        wait_until(lambda: status_of(service, "brief") == "unloaded", f"unloaded\n{service.output}")
        assert told(service, "brief")["pid"] is None
    assert service.health("vlm")[0] == 200
    assert service.stop() == 0


def test_models_are_loaded_and_unloaded_by_hand_but_not_while_they_work(start_service: Start) -> None:
    service = start_service(**with_model("other", "weightless", "1h")).ready()
    assert service.command("models", "load", "other").returncode == 0
    pid = told(service, "other")["pid"]
    assert alive(pid)
    busy = openai.OpenAI(base_url=service.url("vlm", "/v1"), api_key="any").chat.completions.create(
        model="other", messages=[{"role": "user", "content": "word " * 100}], seed=50, stream=True
    )
    next(iter(busy))
    refused = service.command("models", "unload", "other")
    assert refused.returncode == 1 and "works: unload it when it has ended" in refused.stderr
    busy.close()
    wait_until(lambda: service.command("models", "unload", "other").returncode == 0, "its client has gone")
    wait_until(lambda: not alive(pid), "its memory is free")
    assert service.call("vlm", "/models/unload", {"model": "vlm"})[0] == 200
    wait_until(lambda: service.health("vlm")[0] == 200, "a model that can be loaded is well")
    again = service.call("vlm", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]})
    assert again[0] == 200, "and its next request loads it"
    unknown = service.command("models", "load", "nobody")
    assert unknown.returncode == 1 and "There is no model 'nobody'" in unknown.stderr and "other" in unknown.stderr
    assert service.stop() == 0


def test_a_model_that_cannot_be_loaded_refuses_its_clients_with_the_reason_and_the_others_work(start_service: Start) -> None:
    service = start_service(**with_model("gone", "/nowhere/model.gguf")).ready()
    ask = {"messages": [{"role": "user", "content": "x"}]}
    status, body = service.call("vlm", "/v1/chat/completions", {"model": "gone", **ask})
    assert status == 503 and "/nowhere/model.gguf" in body["error"]["message"]
    assert service.call("vlm", "/v1/chat/completions", ask)[0] == 200
    assert "/nowhere/model.gguf" in service.command("status").stdout
    assert service.stop() == 0


def test_a_job_that_waits_for_an_unloaded_model_survives_the_service(start_service: Start) -> None:
    """A background response for a model by name is done by the next service."""
    service = start_service(**with_model("slow", "weightless", "2s")).ready()
    client = openai.OpenAI(base_url=service.url("vlm", "/v1"), api_key="any", max_retries=0)
    response = client.responses.create(model="slow", input="word " * 40, background=True, extra_body={"seed": 5})
    service.kill()
    service.start().ready("vlm")
    client = openai.OpenAI(base_url=service.url("vlm", "/v1"), api_key="any", max_retries=0)
    done = wait_until(
        lambda: (found := client.responses.retrieve(response.id)).status == "completed" and found, f"done\n{service.output}"
    )
    assert done.output_text.split() == ["word"] * 40 and done.model == "slow"
    assert service.stop() == 0
