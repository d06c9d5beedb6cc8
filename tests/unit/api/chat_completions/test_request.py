"""Bodies of chat requests, and the jobs that they become."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chat_calls import (
    HELLO,
    TOOL,
    allowed,
    chat,
    job_of,
    post,
    says,
)
from scripted_hub import answer


def test_every_sampling_field_reaches_the_job() -> None:
    given = {
        "temperature": 0,
        "top_k": 5,
        "top_p": 0.5,
        "min_p": 0.1,
        "typical_p": 0.9,
        "repeat_penalty": 1.1,
        "repeat_last_n": 32,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "dry_multiplier": 0.8,
        "xtc_probability": 0.1,
        "top_n_sigma": 1.5,
        "mirostat": 2,
        "seed": 7,
        "ignore_eos": True,
        "t_max_predict_ms": 100,
        "cache_prompt": False,
    }
    assert job_of(given)["generation"] == given


def test_null_counts_as_absent_and_unknown_fields_are_ignored() -> None:
    job = job_of({"temperature": None, "tools": None, "stop": None, "frobnicate": 3, "response_format": None})
    assert job == {"messages": HELLO, "generation": {}, "stream": False}


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "n_predict"])
def test_all_names_of_max_tokens_are_one(field: str) -> None:
    assert job_of({field: 12})["generation"] == {"max_tokens": 12}


def test_a_stop_string_is_a_list_of_one() -> None:
    assert job_of({"stop": "x"})["generation"] == {"stop": ["x"]}
    assert job_of({"stop": ["x", "", "y"]})["generation"] == {"stop": ["x", "y"]}


def test_the_random_seed_of_llama_cpp_is_no_seed() -> None:
    assert job_of({"seed": -1})["generation"] == {}
    assert job_of({"seed": 2**40 + 5})["generation"] == {"seed": 5}


def test_logit_bias_may_be_an_object_or_pairs() -> None:
    assert job_of({"logit_bias": {"15": -100, "no": False}})["generation"]["logit_bias"] == [[15, -100], ["no", False]]
    assert job_of({"logit_bias": [[15, 1.5]]})["generation"]["logit_bias"] == [[15, 1.5]]


def test_samplers_may_be_names_or_letters() -> None:
    assert job_of({"samplers": "kt"})["generation"]["samplers"] == ["top_k", "temperature"]
    assert job_of({"samplers": ["typical_p", "top-k", "nonsense"]})["generation"]["samplers"] == ["typ_p", "top_k"]


def test_logprobs_ask_for_twenty_as_llama_server_does() -> None:
    assert job_of({"logprobs": True})["generation"] == {"logprobs": True, "n_probs": 20}
    assert job_of({"logprobs": True, "top_logprobs": 3})["generation"] == {"logprobs": True, "n_probs": 3}


@pytest.mark.parametrize(
    ("response_format", "schema"),
    [
        ({"type": "json_object"}, {}),
        ({"type": "json_object", "schema": {"type": "array"}}, {"type": "array"}),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}, {"type": "object"}),
        ({"type": "text"}, None),
    ],
)
def test_response_formats_become_a_schema(response_format: dict[str, Any], schema: Any) -> None:
    assert job_of({"response_format": response_format})["generation"].get("json_schema") == schema


@pytest.mark.parametrize(
    ("body", "thinking"),
    [
        ({"reasoning_effort": "none"}, False),
        ({"enable_thinking": True}, True),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({}, None),
    ],
)
def test_thinking_is_switched_in_three_ways(body: dict[str, Any], thinking: bool | None) -> None:
    assert job_of(body).get("enable_thinking") is thinking


def test_a_tool_choice_that_names_a_function_is_kept() -> None:
    job = job_of({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}})
    assert job["tools"] == [{"function": TOOL["function"]}] and job["tool_choice"] == {"name": "f"}


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_of_the_tools_only_the_allowed_ones_are_offered(mode: str) -> None:
    other = {"type": "function", "function": {"name": "g"}}
    job = job_of({"tools": [other, TOOL], "tool_choice": allowed("f", mode=mode)})
    assert job["tools"] == [{"function": TOOL["function"]}] and job.get("tool_choice", "auto") == mode


def test_messages_reach_the_job_with_what_the_engine_knows() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    messages = [
        {"role": "developer", "content": "d", "cache_control": {}},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "r"},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "t", "extra": 1}]},
    ]
    assert job_of({"messages": messages})["messages"] == [
        {"role": "developer", "content": "d"},
        {
            "role": "assistant",
            "reasoning_content": "r",
            "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": '{"a": 1}'}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "t"}]},
    ]


def test_a_body_without_a_json_content_type_is_read_all_the_same() -> None:
    assert post(says(answer("Hi")), "/v1/chat/completions", json.dumps({"messages": HELLO})).status_code == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 5.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"n_predict": -5}, "n_predict"),
        ({"n": 0}, "n"),
        ({"top_p": 2}, "top_p"),
        ({"stream": "yes"}, "stream"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a", 5]}, "stop"),
        ({"seed": "x"}, "seed"),
        ({"logit_bias": [[1]]}, "logit_bias[0]"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "smell"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "assistant"}]}, "messages[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].function.name"),
        ({"tools": [{"type": "search"}]}, "tools[0].type"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": []}}, "tool_choice.allowed_tools"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
        ({"tools": [TOOL], "tool_choice": allowed(mode="any")}, "tool_choice.allowed_tools.mode"),
        ({"tools": [TOOL], "tool_choice": allowed("f", "g")}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": allowed(mode="required")}, "tool_choice"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": "json"}, "response_format"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"reasoning_format": "sideways"}, "reasoning_format"),
        ({"chat_template_kwargs": {"enable_thinking": "yes"}}, "enable_thinking"),
        ({"grammar": "root ::= x", "json_schema": {}}, "grammar"),
    ],
)
def test_a_wrong_type_or_range_is_a_400_that_names_the_field(body: dict[str, Any], field: str) -> None:
    reply = chat(body)
    error = reply.json()["error"]
    assert reply.status_code == 400 and error["type"] == "invalid_request_error" and error["code"] == 400
    assert field in error["message"], error["message"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {"stop": 5}, "stop"),
        ("/v1/chat/completions", {"stop": ["a", 5]}, "stop[1]"),
        ("/v1/chat/completions", {"logit_bias": 5}, "logit_bias"),
        ("/v1/chat/completions", {"logit_bias": {"a": "b"}}, "logit_bias.a"),
        ("/v1/chat/completions", {"tool_choice": 5}, "tool_choice"),
        ("/v1/chat/completions", {"messages": [{}, "x"]}, "messages[1]"),
        ("/v1/chat/completions", {"stream_options": {"include_usage": 5}}, "stream_options.include_usage"),
        ("/v1/chat/completions", {"messages": None}, "messages"),
        ("/v1/responses", {"input": 5}, "input"),
        ("/tokenize", {"content": 5}, "content"),
    ],
)
def test_param_is_the_callers_field_and_no_name_of_a_type(path: str, body: dict[str, Any], param: str) -> None:
    reply = post(says(answer("Hi")), path, {"messages": HELLO, **body})
    assert reply.status_code == 400 and reply.json()["error"]["param"] == param


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"\xff\xfe",
        b'{"messages": NaN}',
        b'{"messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"a":' * 100_000,
        b'{"tools":' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"seed":' + b"9" * 5000 + b"}",
    ],
    ids=["empty", "cut", "list", "string", "bytes", "nan", "surrogate", "abyss", "deep", "huge"],
)
def test_what_is_no_json_is_a_400(raw: bytes) -> None:
    assert post(says(answer("Hi")), "/v1/chat/completions", raw).status_code == 400


def test_missing_messages_are_named() -> None:
    reply = post(says(answer("Hi")), "/v1/chat/completions", {"model": "x"})
    assert reply.status_code == 400 and reply.json()["error"]["message"] == "'messages' is required"
