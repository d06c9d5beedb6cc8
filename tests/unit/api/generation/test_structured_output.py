"""Whatever asks for a form of the answer is honoured or refused: OpenAI's, llama-server's and vLLM's fields."""

from __future__ import annotations

from typing import Any

import pytest

from chat_calls import HELLO, chat, job_of, post, says, spoken
from scripted_hub import answer

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        ({"json_schema": SCHEMA}, "json_schema", SCHEMA),
        ({"grammar": 'root ::= "x"'}, "grammar", 'root ::= "x"'),
        ({"guided_json": SCHEMA}, "json_schema", SCHEMA),
        ({"guided_json": '{"type": "array"}'}, "json_schema", {"type": "array"}),
        ({"guided_regex": r"\d{3}"}, "regex", r"\d{3}"),
        ({"guided_grammar": 'root ::= "x"'}, "grammar", 'root ::= "x"'),
        ({"guided_choice": ["yes", 'n"o\\', "a\nb\x01"]}, "grammar", r'root ::= "yes" | "n\"o\\" | "a\nb\x01"'),
        ({"structured_outputs": {"json": SCHEMA}}, "json_schema", SCHEMA),
        ({"structured_outputs": {"json_object": True}}, "json_schema", {}),
        ({"structured_outputs": {"regex": "a+"}}, "regex", "a+"),
        ({"structured_outputs": {"choice": ["a", "b"]}}, "grammar", 'root ::= "a" | "b"'),
        ({"structured_outputs": {"grammar": 'root ::= "x"'}}, "grammar", 'root ::= "x"'),
    ],
)
def test_every_way_to_ask_for_a_form_reaches_the_job(body: dict[str, Any], field: str, value: Any) -> None:
    assert job_of(body)["generation"] == {field: value}
    hub = says(spoken("x"))
    assert post(hub, "/v1/completions", {"prompt": "x", **body}).status_code == 200
    assert hub.requests[0]["generation"] == {field: value}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"grammar": "root ::= x", "json_schema": {}}, "json_schema and grammar"),
        ({"grammar": "root ::= x", "response_format": {"type": "json_object"}}, "response_format and grammar"),
        ({"guided_json": SCHEMA, "guided_regex": "a"}, "guided_json and guided_regex"),
        ({"structured_outputs": {"json": SCHEMA, "choice": ["a"]}}, "structured_outputs.json and structured_outputs.choice"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": [5]}, "guided_choice[0]"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": "[1]"}, "guided_json"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": 5}, "structured_outputs"),
    ],
)
def test_what_cannot_be_followed_is_a_400_that_names_the_field(body: dict[str, Any], words: str) -> None:
    reply = chat(body)
    assert reply.status_code == 400 and words in reply.json()["error"]["message"]


def test_the_same_demand_made_twice_is_one() -> None:
    wrapped = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    assert job_of({"response_format": wrapped, "guided_json": SCHEMA})["generation"] == {"json_schema": SCHEMA}


def test_grammars_do_not_go_with_tools() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    for field in ({"grammar": "root ::= x"}, {"guided_regex": "a"}, {"guided_choice": ["a"]}):
        hub = says(answer("Hi"))
        reply = chat({"tools": [tool], **field}, hub)
        assert reply.status_code == 400 and "with tools" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": "auto", "functions": [{"name": "f"}]}, "functions"),
        ({"modalities": ["text", "audio"], "audio": {"voice": "alloy"}}, "audio"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
    ],
)
def test_what_this_service_cannot_do_is_refused_and_never_dropped(body: dict[str, Any], field: str) -> None:
    reply = post(says(answer("Hi")), "/v1/chat/completions", {"messages": HELLO, **body})
    assert reply.status_code == 400 and reply.json()["error"]["param"] == field


@pytest.mark.parametrize("field", ["prompt", "context_management"])
def test_what_responses_cannot_do_here_is_refused_by_name(field: str) -> None:
    reply = post(says(answer("Hi")), "/v1/responses", {"input": "x", field: {"id": "x"}})
    assert reply.status_code == 400 and reply.json()["error"]["param"] == field
    assert post(says(answer("Hi")), "/v1/responses/compact", {"input": "x"}).status_code == 400


def test_servers_of_tools_are_not_asked_from_here() -> None:
    servers = [{"type": "url", "url": "https://example.org", "name": "x"}]
    reply = post(says(answer("Hi")), "/v1/messages", {"messages": HELLO, "max_tokens": 5, "mcp_servers": servers})
    assert reply.status_code == 400 and "mcp_servers" in reply.json()["error"]["message"]
