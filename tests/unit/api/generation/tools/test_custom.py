"""OpenAI's custom tools, called with a text: as chats and Responses ask for them, answer them and stream them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch.api.generation.tools.custom import CustomInput, custom_input
from chat_calls import HELLO, chunks, post, says
from property_examples import examples
from scripted_hub import answer, delta

TEXT = 'print("ä")\n\\ 😀'
ARGUMENTS = json.dumps({"input": TEXT})
CALL = {"id": "call_1", "function": {"name": "run", "arguments": ARGUMENTS}}
HEAD = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "run", "arguments": ""}}
STREAM = [
    delta(tool_calls=[HEAD]),
    *(
        delta(tool_calls=[{"index": 0, "function": {"arguments": ARGUMENTS[at : at + 3]}}])
        for at in range(0, len(ARGUMENTS), 3)
    ),
    delta(finish="tool_calls"),
    answer("", "tool_calls", tool_calls=[CALL]),
]
CHAT: dict[str, Any] = {"messages": HELLO, "tools": [{"type": "custom", "custom": {"name": "run", "description": "runs"}}]}
RESPONSES: dict[str, Any] = {"input": "Hello", "tools": [{"type": "custom", "name": "run", "description": "runs"}]}


def offered(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The function that the model is offered."""
    hub = says(answer("Hi"))
    reply = post(hub, path, body)
    assert reply.status_code == 200, reply.text
    function: dict[str, Any] = hub.requests[0]["tools"][0]["function"]
    return function


@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/responses", RESPONSES)])
def test_a_custom_tool_is_a_function_of_one_text(path: str, body: dict[str, Any]) -> None:
    function = offered(path, body)
    assert (function["name"], function["description"], function["is_custom"]) == ("run", "runs", True)
    assert function["parameters"]["properties"] == {"input": {"type": "string"}}


def test_its_format_binds_the_text_and_is_told_to_the_model() -> None:
    regex = {"type": "grammar", "syntax": "regex", "definition": "[a-z]+"}
    function = offered("/v1/responses", {**RESPONSES, "tools": [{"type": "custom", "name": "run", "format": regex}]})
    assert function["parameters"]["properties"]["input"]["pattern"] == "^(?:[a-z]+)$"
    assert "regex grammar:\n[a-z]+" in function["description"]
    lark = {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: /a/"}}
    function = offered(
        "/v1/chat/completions", {**CHAT, "tools": [{"type": "custom", "custom": {"name": "run", "format": lark}}]}
    )
    assert function["lark"] == "start: /a/" and function["strict"]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ("text", "tools[0].format"),
        ({"type": "gbnf"}, "tools[0].format.type"),
        ({"type": "grammar", "syntax": "ebnf", "definition": "x"}, "tools[0].format.syntax"),
        ({"type": "grammar", "syntax": "lark"}, "tools[0].format.definition"),
        ({"type": "grammar", "syntax": "lark", "definition": "x" * 70_000}, "tools[0].format.definition"),
    ],
)
def test_a_wrong_format_is_named(wrong: Any, field: str) -> None:
    reply = post(
        says(answer("Hi")), "/v1/responses", {**RESPONSES, "tools": [{"type": "custom", "name": "run", "format": wrong}]}
    )
    assert reply.status_code == 400 and reply.json()["error"]["param"] == field


def test_tool_choice_names_a_custom_tool() -> None:
    for path, body, choice in (
        ("/v1/chat/completions", CHAT, {"type": "custom", "custom": {"name": "run"}}),
        ("/v1/responses", RESPONSES, {"type": "custom", "name": "run"}),
    ):
        hub = says(answer("Hi"))
        assert post(hub, path, {**body, "tool_choice": choice}).status_code == 200
        assert hub.requests[0]["tool_choice"] == {"name": "run"}


def test_a_chats_call_has_the_text_as_it_is() -> None:
    reply = post(says(answer("", "tool_calls", tool_calls=[CALL])), "/v1/chat/completions", CHAT).json()
    [call] = reply["choices"][0]["message"]["tool_calls"]
    assert call == {"id": "call_1", "type": "custom", "custom": {"name": "run", "input": TEXT}}
    from openai.types.chat import ChatCompletionMessageCustomToolCall

    assert ChatCompletionMessageCustomToolCall.model_validate(call).custom.input == TEXT


def test_a_streamed_chat_tells_the_text_as_it_comes() -> None:
    events = chunks(post(says(*STREAM), "/v1/chat/completions", {**CHAT, "stream": True}))
    calls = [c for e in events[:-1] for choice in e["choices"] for c in choice["delta"].get("tool_calls", ())]
    assert calls[0] == {"index": 0, "id": "call_1", "type": "custom", "custom": {"name": "run", "input": ""}}
    assert len(calls) > 4 and "".join(c["custom"].get("input", "") for c in calls) == TEXT


def test_a_response_has_the_call_as_an_item_of_its_own() -> None:
    reply = post(says(answer("", "tool_calls", tool_calls=[CALL])), "/v1/responses", RESPONSES).json()
    [item] = reply["output"]
    from openai.types.responses import ResponseCustomToolCall

    assert ResponseCustomToolCall.model_validate(item).input == TEXT
    assert (item["type"], item["name"], item["call_id"]) == ("custom_tool_call", "run", "call_1")


def test_a_streamed_response_tells_the_text_as_it_comes() -> None:
    events = chunks(post(says(*STREAM), "/v1/responses", {**RESPONSES, "stream": True}))
    texts = [e["delta"] for e in events if e["type"] == "response.custom_tool_call_input.delta"]
    assert len(texts) > 4 and "".join(texts) == TEXT
    [done] = [e for e in events if e["type"] == "response.custom_tool_call_input.done"]
    assert done["input"] == TEXT
    assert events[-1]["response"]["output"][0]["input"] == TEXT
    assert not any("function_call" in e["type"] for e in events)


def test_a_functions_call_beside_a_custom_tool_stays_one() -> None:
    function = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    reply = post(
        says(answer("", "tool_calls", tool_calls=[call, CALL])),
        "/v1/chat/completions",
        {**CHAT, "tools": [*CHAT["tools"], function]},
    ).json()
    assert [c["type"] for c in reply["choices"][0]["message"]["tool_calls"]] == ["function", "custom"]


@settings(max_examples=examples(100), deadline=None)
@given(st.text(max_size=30), st.booleans(), st.data())
def test_however_the_arguments_are_cut_the_text_is_the_same(text: str, is_ascii: bool, data: st.DataObject) -> None:
    arguments = json.dumps({"input": text}, ensure_ascii=is_ascii)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(arguments)), max_size=8)))
    reader = CustomInput()
    pieces = [arguments[a:b] for a, b in zip([0, *cuts], [*cuts, len(arguments)], strict=True)]
    assert "".join(map(reader.feed, pieces)) == text == custom_input(arguments)
