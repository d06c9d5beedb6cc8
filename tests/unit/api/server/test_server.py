"""Tokens, properties, models: what a port says of itself."""

from __future__ import annotations

import time

from msgspec.structs import replace

from batch.api.server.node_gauges import NodeGauges
from batch.metrics import Metrics
from batch.payloads.model_info import ChatModelInfo
from batch.queue.hub.model_state import ModelState
from batch.queue.jobs import Kind
from chat_calls import (
    HELLO,
    call,
    post,
    says,
    spoken,
)
from paths import ROOT
from scripted_hub import answer


def test_tokens_and_templates_are_asked_of_the_engine() -> None:
    hub = says(answer(""))
    hub.answers |= {"tokenize": {"tokens": [1]}, "detokenize": {"content": "x"}, "apply_template": {"prompt": "p"}}
    assert post(hub, "/tokenize", {"content": "a", "add_special": True}).json() == {"tokens": [1]}
    assert hub.asked[-1] == (
        "tokenize",
        {"content": "a", "add_special": True},
    )
    assert post(hub, "/detokenize", {"tokens": [1]}).json() == {"content": "x"}
    assert post(hub, "/apply-template", {"messages": HELLO}).json() == {"prompt": "p"}
    counted = post(hub, "/v1/chat/completions/input_tokens", {"messages": HELLO}).json()
    assert counted == {"input_tokens": 7, "object": "response.input_tokens"}
    assert post(hub, "/v1/messages/count_tokens", {"messages": HELLO}).json() == {"input_tokens": 7}
    assert post(hub, "/tokenize", {}).json() == {"tokens": []}
    assert post(hub, "/detokenize", {"tokens": ["x"]}).status_code == 400


def test_routes_have_llama_servers_other_names() -> None:
    chats, texts = says(answer("Hi")), says(spoken("x"))
    assert post(chats, "/chat/completions", {"messages": HELLO}).json()["object"] == "chat.completion"
    for path in ("/completions", "/completion"):  # llama-server's own shape; OpenAI's is below /v1
        assert post(texts, path, {"prompt": "Hello"}).json()["content"] == "x"
    assert (chats.drafts[0].task, texts.drafts[0].task) == ("chat", "completion")
    assert call(chats, "GET", "/v1/health").json() == call(chats, "GET", "/health").json() == {"status": "ok"}


def test_a_busy_slot_is_a_503_where_that_is_asked_for() -> None:
    hub = says(answer(""))
    assert call(hub, "GET", "/slots?fail_on_no_slot=1").status_code == 200
    hub.state = replace(hub.state, busy="a-job")
    assert call(hub, "GET", "/slots").json()[0]["is_processing"] is True
    reply = call(hub, "GET", "/slots?fail_on_no_slot=1")
    assert reply.status_code == 503 and reply.json()["error"]["type"] == "unavailable_error"


def test_properties_are_not_changed_over_http() -> None:
    reply = post(says(answer("")), "/props", {"default_generation_settings": {}})
    assert reply.status_code == 501 and reply.json()["error"]["type"] == "not_supported_error"


def test_an_unknown_route_is_llama_servers_404() -> None:
    error = post(says(answer("")), "/v1/nope", {}).json()["error"]
    assert error["code"] == 404 and error["message"] == "File Not Found" and error["type"] == "not_found_error"


def test_metrics_say_when_the_process_began() -> None:
    hub = says(answer(""))
    hub.answers["metrics"] = {}
    reply = call(hub, "GET", "/metrics")
    assert reply.status_code == 200 and abs(int(reply.headers["process-start-time-unix"]) - time.time()) < 60


def test_every_metric_of_our_own_has_its_line_in_the_documents() -> None:
    described = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    for kind in Kind:
        metrics = Metrics(kind.value)
        NodeGauges(metrics.registry, says(answer("")), kind)  # type: ignore[arg-type]
        families = list(metrics.registry.collect())
        assert len(families) > 20 and all(family.documentation for family in families)
        for family in families:
            name = f"{family.name}_total" if family.type == "counter" else family.name
            assert not name.startswith("batch:") or f"`{name}`" in described, name


def test_properties_hold_what_the_engine_knows_and_nothing_else() -> None:
    hub = says(answer(""))
    info = ChatModelInfo(model="tiny", n_ctx=4096, vision=True, chat_template="{{ x }}", bos_token="<s>", eos_token="</s>")
    hub.state = ModelState("ready", 1.0, info)
    told = call(hub, "GET", "/props").json()
    assert "chat_template_caps" not in told
    assert (told["chat_template"], told["bos_token"], told["eos_token"]) == ("{{ x }}", "<s>", "</s>")
    assert told["default_generation_settings"]["params"]["samplers"][0] == "penalties"


def test_every_model_is_listed_and_any_name_is_one() -> None:
    hub = says(answer(""))
    told = call(hub, "GET", "/v1/models").json()
    assert {model["id"] for model in told["data"]} == {"tiny"} and len(told["data"]) == len(told["models"]) == 3
    assert call(hub, "GET", "/v1/models/gpt-4o").json()["id"] == "gpt-4o"
    hub.state = ModelState("loading")
    assert call(hub, "GET", "/v1/models").status_code == 503
