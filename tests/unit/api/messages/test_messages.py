"""Anthropic's messages."""

from __future__ import annotations

from typing import Any

import pytest

from batch.errors import BadRequest, ContextExceeded
from chat_calls import (
    HELLO,
    chunks,
    png,
    post,
    says,
)
from scripted_hub import ScriptedHub, answer, delta


def test_anthropic_blocks_become_chat_messages() -> None:
    hub = says(answer("ok"))
    data = png().split(",")[1]
    source = {"type": "base64", "media_type": "image/png", "data": data}
    body = {
        "max_tokens": 50,
        "system": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}],
        "messages": [
            {"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": "What?"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": ""},
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "42"}]},
                    {"type": "text", "text": "And?"},
                ],
            },
        ],
        "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
        "stop_sequences": ["END"],
        "thinking": {"type": "enabled", "budget_tokens": 2048},
    }
    reply = post(hub, "/v1/messages", body)
    assert reply.status_code == 200, reply.text
    (sha,) = hub.blobs
    job = hub.requests[0]
    assert job["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image", "blob": sha}, {"type": "text", "text": "What?"}]},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "hm",
            "tool_calls": [{"id": "t1", "function": {"name": "f", "arguments": '{"a": 1}'}}],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "42"},
        {"role": "user", "content": [{"type": "text", "text": "And?"}]},
    ]
    assert job["generation"] == {"max_tokens": 50, "stop": ["END"]}
    assert job["tool_choice"] == {"name": "f"}
    assert job["parallel_tool_calls"] is False
    assert job["enable_thinking"] is True and job["reasoning_budget"] == 2048


def test_an_anthropic_answer_has_blocks_reason_and_usage() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    hub = says(answer("Hi", "tool_calls", reasoning_content="hm", tool_calls=[call]))
    told = post(hub, "/v1/messages", {"model": "m", "max_tokens": 9, "messages": HELLO}).json()
    assert told["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "text", "text": "Hi"},
        {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}},
    ]
    assert told["stop_reason"] == "tool_use" and told["stop_sequence"] is None and told["type"] == "message"
    assert told["usage"]["input_tokens"] == 5 and told["usage"]["cache_read_input_tokens"] == 2


def test_anthropic_errors_have_anthropics_shape() -> None:
    reply = post(says(answer("")), "/v1/messages", {"max_tokens": 9})
    assert reply.status_code == 400
    assert reply.json() == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "'messages' is required"},
    }
    reply = post(says(BadRequest("no")), "/v1/messages", {"max_tokens": 9, "messages": HELLO, "stream": True})
    assert reply.status_code == 400 and reply.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("choice", "field"),
    [({"type": []}, "tool_choice.type"), ({"type": "some"}, "tool_choice.type"), ({"type": "any"}, "tool_choice")],
)
def test_an_anthropic_tool_choice_that_cannot_be_followed_is_a_400(choice: dict[str, Any], field: str) -> None:
    reply = post(says(answer("")), "/v1/messages", {"max_tokens": 9, "messages": HELLO, "tool_choice": choice})
    assert reply.status_code == 400 and f"'{field}'" in reply.json()["error"]["message"], reply.text


def test_an_anthropic_stream_opens_and_closes_each_block() -> None:
    head = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    hub = says(
        delta(reasoning_content="hm"),
        delta(content="Hi"),
        delta(tool_calls=[head]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": "{}"}}]),
        answer("Hi", "tool_calls", reasoning_content="hm", tool_calls=[call]),
    )
    told = chunks(post(hub, "/v1/messages", {"max_tokens": 9, "messages": HELLO, "stream": True}))
    assert [event["type"] for event in told] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert [e["index"] for e in told if e["type"] == "content_block_start"] == [0, 1, 2]
    assert told[-2]["delta"]["stop_reason"] == "tool_use" and told[-2]["usage"]["output_tokens"] == 3


LOOP = {"type": "progress", "done": 1, "total": 4096, "unit": "tokens"}


@pytest.mark.parametrize(
    "events",
    [
        [LOOP, {**delta(content="H"), "prompt": {"tokens": 7, "cached": 2}}, LOOP, delta(content="i")],
        [LOOP],
    ],
    ids=["told", "from the result"],
)
@pytest.mark.parametrize("text", ["Hi", ""])
def test_an_anthropic_stream_begins_with_what_the_prompt_cost(events: list[Any], text: str) -> None:
    hub = says(*(events if text else [LOOP]), answer(text))
    begun = chunks(post(hub, "/v1/messages", {"max_tokens": 9, "messages": HELLO, "stream": True}))[0]
    assert begun["type"] == "message_start"
    assert begun["message"]["usage"] == {
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 2,
        "input_tokens": 5,
        "output_tokens": 0,
    }


@pytest.mark.parametrize(("path", "body"), [("/v1/messages", {"messages": HELLO}), ("/v1/responses", {"input": "x"})])
@pytest.mark.parametrize("n", [5, 0, "many"])
def test_n_means_nothing_where_it_is_unknown(path: str, body: dict[str, Any], n: Any) -> None:
    hub = says(answer("Hi"))
    assert post(hub, path, {**body, "n": n}).status_code == 200
    assert "n" not in hub.requests[0]


# -- prefill, thinking, too long


def anthropic(hub: ScriptedHub, **body: Any) -> dict[str, Any]:
    reply = post(hub, "/v1/messages", {"max_tokens": 9, "messages": HELLO, **body})
    assert reply.status_code == 200, reply.text
    told: dict[str, Any] = reply.json()
    return told


@pytest.mark.parametrize("stream", [False, True])
def test_a_prefill_is_not_repeated_in_the_answer_streamed_or_whole(stream: bool) -> None:
    result = answer("The answer is 4")
    result["choices"][0]["prefill"] = {"content": len("The answer is")}
    turns = [*HELLO, {"role": "assistant", "content": "The answer is"}]
    body = {"max_tokens": 9, "messages": turns, "stream": stream}
    reply = post(says(delta(content=" 4"), result), "/v1/messages", body)
    if stream:
        text = "".join(event["delta"]["text"] for event in chunks(reply) if event["type"] == "content_block_delta")
    else:
        (block,) = reply.json()["content"]
        text = block["text"]
    assert text == " 4"


@pytest.mark.parametrize(
    ("body", "enabled", "budget"),
    [
        ({}, False, None),
        ({"thinking": {"type": "disabled"}}, False, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, True, 2048),
        ({"thinking": {"type": "enabled"}}, True, 10_000),
        ({"thinking": {"type": "adaptive"}}, True, None),
        ({"enable_thinking": True}, True, None),
        ({"chat_template_kwargs": {"enable_thinking": True}}, True, None),
    ],
)
def test_there_is_no_thinking_unless_it_is_asked_for(body: dict[str, Any], enabled: bool, budget: int | None) -> None:
    hub = says(answer("Hi"))
    anthropic(hub, **body)
    request = hub.requests[0]
    assert request["enable_thinking"] is enabled and request.get("reasoning_budget") == budget


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long_is_told_in_anthropics_words(stream: bool) -> None:
    error = ContextExceeded("request (9 tokens) exceeds …", n_prompt_tokens=9, n_ctx=4)
    reply = post(says(error), "/v1/messages", {"max_tokens": 9, "messages": HELLO, "stream": stream})
    assert reply.status_code == 400
    assert reply.json()["error"] == {"type": "invalid_request_error", "message": "prompt is too long: 9 tokens > 4 maximum"}
