"""Bodies, jobs and replies of the chat port, against a hub that plays a script."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from dataclasses import replace
from typing import Any

import httpx
import pytest
from PIL import Image

from batch.api.app import create_app
from batch.errors import BadRequest, BatchError, ContextExceeded, QueueFull
from batch.payloads.model_info import ChatModelInfo
from batch.queue.jobs import Kind
from batch.queue.model_state import ModelState
from batch.settings import LimitSettings, Settings
from scripted_hub import TIMINGS, USAGE, ScriptedHub, answer, delta

HELLO = [{"role": "user", "content": "Hello"}]


def call(hub: ScriptedHub, method: str, path: str, content: bytes | str | None = None, **settings: Any) -> httpx.Response:
    """One request to the chat app in this process."""

    async def ask() -> httpx.Response:
        app = create_app(Kind.VLM, hub, Settings(**settings))  # type: ignore[arg-type]
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, content=content)

    return asyncio.run(ask())


def post(hub: ScriptedHub, path: str, body: Any, **settings: Any) -> httpx.Response:
    """One POST; a str or bytes body goes as it is."""
    return call(hub, "POST", path, body if isinstance(body, (bytes, str)) else json.dumps(body), **settings)


def says(*items: Any) -> ScriptedHub:
    """A hub whose every job plays these items."""
    return ScriptedHub(lambda draft: [{"type": "started"}, *items])


def chat(body: dict[str, Any], hub: ScriptedHub | None = None, **settings: Any) -> httpx.Response:
    return post(hub or says(answer("Hi")), "/v1/chat/completions", {"messages": HELLO, **body}, **settings)


def job_of(body: dict[str, Any]) -> dict[str, Any]:
    """The job that a chat body becomes."""
    hub = says(answer("Hi"))
    reply = chat(body, hub)
    assert reply.status_code == 200, reply.text
    return hub.requests[0]


def chunks(reply: httpx.Response) -> list[Any]:
    """The JSON of a stream's data lines; [DONE] as that string."""
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def png(width: int = 8, height: int = 8) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


# -- the answer


def test_a_chat_answer_has_the_keys_of_llama_server() -> None:
    reply = chat({"model": "gemma-4-e4b"})
    told = reply.json()
    assert set(told) == {"choices", "created", "model", "system_fingerprint", "object", "usage", "id", "timings"}
    assert told["object"] == "chat.completion" and told["model"] == "gemma-4-e4b"
    assert told["id"].startswith("chatcmpl-") and told["system_fingerprint"].startswith("b")
    assert told["usage"] == USAGE and told["timings"] == TIMINGS
    message = {"role": "assistant", "content": "Hi"}
    assert told["choices"] == [{"finish_reason": "stop", "index": 0, "message": message}]


def test_the_job_id_and_a_note_stand_in_headers() -> None:
    hub = says({**answer(""), "note": "all of max_tokens went into thinking"})
    reply = chat({}, hub)
    assert reply.headers["x-batch-job"] == hub.drafts[0].id
    assert reply.headers["x-batch-note"] == "all of max_tokens went into thinking"


def test_content_is_a_string_even_when_only_tools_are_called() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    result = answer("", "tool_calls", tool_calls=[call])
    result["choices"][0]["message"]["content"] = None
    hub = says(result)
    choice = chat({}, hub).json()["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert choice["finish_reason"] == "tool_calls"


def test_a_model_that_is_not_named_is_the_loaded_one() -> None:
    assert chat({}).json()["model"] == "tiny"


# -- what a body becomes


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


TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def allowed(*names: str, mode: str = "auto") -> dict[str, Any]:
    """A tool_choice that allows some of the tools."""
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def test_a_tool_choice_that_names_a_function_is_kept() -> None:
    choice = {"type": "function", "function": {"name": "f"}}
    job = job_of({"tools": [TOOL], "tool_choice": choice})
    assert job["tools"] == [TOOL] and job["tool_choice"] == choice


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_of_the_tools_only_the_allowed_ones_are_offered(mode: str) -> None:
    other = {"type": "function", "function": {"name": "g"}}
    job = job_of({"tools": [other, TOOL], "tool_choice": allowed("f", mode=mode)})
    assert job["tools"] == [TOOL] and job.get("tool_choice", "auto") == mode


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
            "content": None,
            "reasoning_content": "r",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "t"}]},
    ]


def test_a_body_without_a_json_content_type_is_read_all_the_same() -> None:
    assert post(says(answer("Hi")), "/v1/chat/completions", json.dumps({"messages": HELLO})).status_code == 200


# -- refusals


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


# -- images


def with_image(url: str) -> dict[str, Any]:
    parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": url}}]
    return {"messages": [{"role": "user", "content": parts}]}


def test_a_data_url_is_spooled_and_named_by_its_bytes() -> None:
    hub = says(answer("a red square"))
    assert chat(with_image(png()), hub).status_code == 200
    (sha,) = hub.blobs
    assert hub.blobs[sha] == base64.b64decode(png().split(",")[1])
    assert hub.drafts[0].blobs == (sha,)
    parts = hub.requests[0]["messages"][0]["content"]
    assert parts == [{"type": "text", "text": "What?"}, {"type": "image", "blob": sha}]


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/a.png",
        "https://example.org/a.png",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "data:image/png;base64,!!!",
        "data:image/png,abc",
        "data:image/png;base64",
        "data:image/png;base64,",
        "data:image/png;base64," + base64.b64encode(b"no image at all").decode(),
    ],
)
def test_what_is_no_image_here_is_a_400(url: str) -> None:
    hub = says(answer("x"))
    reply = chat(with_image(url), hub)
    assert reply.status_code == 400 and not hub.drafts


def test_of_several_images_the_wrong_one_is_named() -> None:
    turns = [*with_image(png())["messages"], *with_image("https://example.org/a.png")["messages"]]
    error = chat({"messages": turns}).json()["error"]
    assert error["message"].startswith("Image 2 of 2: image_url: https addresses are not fetched")


def test_too_large_images_are_a_413() -> None:
    assert chat(with_image(png(100, 100)), limits=LimitSettings(image_pixels=9999)).status_code == 413
    assert chat(with_image(png()), limits=LimitSettings(image_bytes=10)).status_code == 413
    two = with_image(png())["messages"] * 2
    assert chat({"messages": two}, limits=LimitSettings(images=1)).status_code == 413


def test_an_image_without_a_vision_model_is_a_400() -> None:
    hub = says(answer("x"))
    hub.state = ModelState("ready", 1.0, ChatModelInfo(model="text"))
    assert chat(with_image(png()), hub).status_code == 400


# -- streams


def streamed(hub: ScriptedHub, **body: Any) -> list[Any]:
    reply = chat({"stream": True, **body}, hub)
    assert reply.status_code == 200 and reply.headers["content-type"].startswith("text/event-stream"), reply.text
    return chunks(reply)


def test_a_stream_begins_with_the_role_and_ends_with_reason_usage_and_done() -> None:
    hub = says(delta(reasoning_content="hm"), delta(content="Hi"), delta(content="!", finish="stop"), answer("Hi!"))
    *told, done = streamed(hub, stream_options={"include_usage": True})
    assert done == "[DONE]"
    assert [c["choices"][0]["delta"] for c in told[:-1]] == [
        {"role": "assistant", "content": None},
        {"reasoning_content": "hm"},
        {"content": "Hi"},
        {"content": "!"},
        {},
    ]
    assert [c["choices"][0]["finish_reason"] for c in told[:-1]] == [None, None, None, None, "stop"]
    assert told[-1]["choices"] == [] and told[-1]["usage"] == USAGE and told[-1]["timings"] == TIMINGS
    assert len({c["id"] for c in told}) == 1 and {c["object"] for c in told} == {"chat.completion.chunk"}
    assert not any("usage" in c or "timings" in c for c in told[:-1])


def test_without_include_usage_the_timings_stand_on_the_closing_chunk() -> None:
    *_, last, done = streamed(says(delta(content="Hi"), delta(finish="stop"), answer("Hi")))
    assert done == "[DONE]" and last["timings"] == TIMINGS and last["choices"][0]["finish_reason"] == "stop"
    assert "usage" not in last


def test_several_choices_each_have_their_own_beginning_and_end() -> None:
    choices = [
        {"index": 0, "message": {"content": "a"}, "finish_reason": "stop"},
        {"index": 1, "message": {"content": "b"}, "finish_reason": "length"},
    ]
    hub = says(
        delta(content="a"),
        delta(finish="stop"),
        delta(1, content="b"),
        delta(1, finish="length"),
        {"choices": choices, "usage": USAGE},
    )
    told = [
        (c["choices"][0]["index"], c["choices"][0]["delta"], c["choices"][0]["finish_reason"]) for c in streamed(hub, n=2)[:-1]
    ]
    role = {"role": "assistant", "content": None}
    assert told == [
        (0, role, None),
        (0, {"content": "a"}, None),
        (0, {}, "stop"),
        (1, role, None),
        (1, {"content": "b"}, None),
        (1, {}, "length"),
    ]


def test_what_no_delta_said_comes_from_the_result() -> None:
    told = streamed(says(delta(content="He"), answer("Hello")))
    assert [c["choices"][0]["delta"].get("content") for c in told[1:3]] == ["He", "llo"]


def test_what_the_request_began_itself_is_not_streamed_back() -> None:
    for events, rest in (([], ""), ([], " Hello"), ([delta(content=" He")], " Hello")):
        result = answer(f"Well:{rest}")
        result["choices"][0]["given"] = {"content": len("Well:")}
        told = streamed(says(*events, result))
        assert "".join(c["choices"][0]["delta"].get("content") or "" for c in told[:-1]) == rest


def test_an_error_at_once_is_an_http_error_even_when_streamed() -> None:
    reply = chat({"stream": True}, says(ContextExceeded("too long", n_prompt_tokens=9, n_ctx=4)))
    assert reply.status_code == 400 and reply.headers["content-type"] == "application/json"
    assert reply.json()["error"] == {
        "code": 400,
        "message": "too long",
        "type": "exceed_context_size_error",
        "param": None,
        "n_prompt_tokens": 9,
        "n_ctx": 4,
    }


def test_an_error_in_a_stream_ends_it_without_done() -> None:
    told = streamed(says(delta(content="He"), BatchError("broke")))
    assert told[-1] == {"error": {"code": 500, "message": "broke", "type": "server_error", "param": None}}
    assert "[DONE]" not in told


def test_a_request_that_waits_is_told_its_place_in_comments() -> None:
    hub = ScriptedHub(lambda draft: [1.4, {"type": "started"}, delta(content="Hi"), answer("Hi")])
    hub.places = [3, 1]
    reply = chat({"stream": True}, hub)
    assert ": queued 3 ahead" in reply.text.split("data:")[0]
    assert [question for question, _ in hub.asked] == ["count"]


def test_a_request_that_waits_and_cannot_fit_is_a_400_before_its_turn() -> None:
    hub = ScriptedHub(lambda draft: [60, {"type": "started"}, answer("Hi")])
    hub.answers["count"] = {"tokens": 5000, "n_ctx": 4096}
    reply = chat({"stream": True}, hub)
    error = reply.json()["error"]
    assert reply.status_code == 400 and error["type"] == "exceed_context_size_error"
    assert error["n_prompt_tokens"] == 5000 and error["n_ctx"] == 4096
    assert error["message"] == ("request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it")
    assert hub.tickets[0].cancelled


def test_a_job_that_starts_again_goes_on_where_the_caller_stands() -> None:
    again = [delta(content="Hel"), {"type": "started"}, delta(content="He"), delta(content="llo"), answer("Hello")]
    told = streamed(says(*again))
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in told[:-1]) == "Hello"
    assert told[-1] == "[DONE]"


def test_a_job_that_starts_again_another_way_ends_in_an_error() -> None:
    told = streamed(says(delta(content="Hel"), {"type": "started"}, delta(content="Ha"), answer("Ha")))
    assert "error" in told[-1] and "died" in told[-1]["error"]["message"]


def test_a_tool_call_that_starts_again_is_not_told_twice() -> None:
    head = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
    again = {**head, "id": "c2"}
    call = {"id": "c2", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}

    def rest(text: str) -> dict[str, Any]:
        return delta(tool_calls=[{"index": 0, "function": {"arguments": text}}])

    hub = says(
        delta(tool_calls=[head]),
        rest('{"a'),
        {"type": "started"},
        delta(tool_calls=[again]),
        rest('{"a":'),
        rest("1}"),
        answer("", "tool_calls", tool_calls=[call]),
    )
    deltas = [c["choices"][0]["delta"] for c in streamed(hub)[1:-1]]
    told = [part for d in deltas for part in d.get("tool_calls") or []]
    assert [part["id"] for part in told if "id" in part] == ["c1"]
    assert "".join(part["function"].get("arguments", "") for part in told) == '{"a":1}'


def test_a_tool_call_is_streamed_with_its_head_once() -> None:
    head = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
    rest = {"index": 0, "function": {"arguments": '{"a":1}'}}
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    hub = says(delta(tool_calls=[head]), delta(tool_calls=[rest]), answer("", "tool_calls", tool_calls=[call]))
    told = [c["choices"][0]["delta"].get("tool_calls") for c in streamed(hub)[1:3]]
    assert told == [[head], [rest]]


def test_progress_is_told_when_asked_for() -> None:
    loop = {"type": "progress", "done": 3, "total": 7, "unit": "tokens"}
    hub = says(loop, {**loop, "cache": 2, "time_ms": 5}, delta(content="Hi"), answer("Hi"))
    told = streamed(hub, return_progress=True)
    assert told[0]["prompt_progress"] == {"total": 7, "cache": 2, "processed": 3, "time_ms": 5}
    assert not any("prompt_progress" in chunk for chunk in streamed(hub)[:-1])
    assert sum("prompt_progress" in chunk for chunk in told[:-1]) == 1


def test_a_caller_that_hangs_up_cancels_its_job() -> None:
    hub = ScriptedHub(lambda draft: [60, answer("Hi")])

    async def ask() -> None:
        app = create_app(Kind.VLM, hub, Settings())  # type: ignore[arg-type]
        body = json.dumps({"messages": HELLO, "stream": True}).encode()
        inbox = [{"type": "http.request", "body": body}, {"type": "http.disconnect"}]

        async def receive() -> dict[str, Any]:
            return inbox.pop(0) if inbox else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            pass

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "headers": [],
            "query_string": b"",
            "http_version": "1.1",
            "scheme": "http",
            "server": ("localhost", 80),
            "client": ("localhost", 1),
            "asgi": {"version": "3.0"},
        }
        await asyncio.wait_for(app(scope, receive, send), 5)  # type: ignore[arg-type]

    asyncio.run(ask())
    assert hub.tickets[0].cancelled


def test_a_full_queue_is_a_429_with_a_time_to_come_back() -> None:
    hub = says(answer("Hi"))

    async def full(draft: Any, **_: Any) -> Any:
        raise QueueFull("too many", retry_after=9)

    hub.submit = full  # type: ignore[method-assign]
    reply = chat({}, hub)
    assert reply.status_code == 429 and reply.headers["retry-after"] == "9"


# -- completions


def spoken(text: str, finish: str = "stop", **more: Any) -> dict[str, Any]:
    stop = {"stop_type": "limit" if finish == "length" else "word" if "stopping_word" in more else "eos"}
    return {
        "choices": [{"index": 0, "text": text, "finish_reason": finish, **stop, **more}],
        "usage": USAGE,
        "timings": TIMINGS,
    }


def test_a_completion_has_openais_shape() -> None:
    told = post(says(spoken(" world", "length")), "/v1/completions", {"prompt": "Hello", "max_tokens": 3}).json()
    assert told["object"] == "text_completion" and told["usage"] == USAGE and told["timings"] == TIMINGS
    assert told["choices"] == [{"text": " world", "index": 0, "logprobs": None, "finish_reason": "length"}]


def test_several_prompts_are_several_jobs_and_choices() -> None:
    hub = ScriptedHub(lambda draft: [spoken(f"<{draft.payload.prompt}>")])
    told = post(hub, "/v1/completions", {"prompt": ["a", "b"]}).json()
    assert [c["text"] for c in told["choices"]] == ["<a>", "<b>"]
    assert [c["index"] for c in told["choices"]] == [0, 1]
    assert told["usage"]["total_tokens"] == 20 and told["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ("a", ["a"]),
        ([1, 2], [[1, 2]]),
        ([1, "b"], [[1, "b"]]),
        ([[1], "b"], [[1], "b"]),
        ({"prompt_string": "a"}, ["a"]),
    ],
)
def test_prompts_come_in_llama_servers_shapes(given: Any, prompts: list[Any]) -> None:
    hub = says(spoken("x"))
    assert post(hub, "/v1/completions", {"prompt": given}).status_code == 200
    assert [request["prompt"] for request in hub.requests] == prompts


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"prompt": None},
        {"prompt": 5},
        {"prompt": []},
        {"prompt": [None]},
        {"prompt": [[]]},
        {"prompt": [[1.5]]},
        {"prompt": "a", "suffix": "b"},
        {"prompt": "a", "best_of": 3},
    ],
)
def test_a_completion_without_a_prompt_is_a_400(body: dict[str, Any]) -> None:
    assert post(says(spoken("x")), "/v1/completions", body).status_code == 400


def test_a_streamed_completion_closes_with_usage_and_done() -> None:
    hub = says(delta(text="a"), delta(text="b", finish="stop"), spoken("ab"))
    *told, last, done = chunks(post(hub, "/v1/completions", {"prompt": "x", "stream": True}))
    assert [c["choices"][0]["text"] for c in told] == ["a", "b"] and done == "[DONE]"
    assert last["choices"][0] == {"text": "", "index": 0, "logprobs": None, "finish_reason": "stop"}
    assert last["usage"] == USAGE and last["timings"] == TIMINGS


def native_hub(*items: Any) -> ScriptedHub:
    *events, result = items
    return says({"type": "prompt", "tokens": 2}, *events, {**result, "prompt": "<bos>Hello"})


def test_a_native_completion_has_llama_servers_keys() -> None:
    probability = {"id": 5, "token": "x", "bytes": [120], "logprob": -0.5, "top_logprobs": []}
    hub = native_hub(spoken("x\n", "stop", stopping_word="END", logprobs={"content": [probability]}))
    told = post(hub, "/completion", {"prompt": "Hello", "n_predict": 3, "n_probs": 1, "temperature": 0}).json()
    assert set(told) == {
        "index",
        "content",
        "tokens",
        "id_slot",
        "stop",
        "model",
        "tokens_predicted",
        "tokens_evaluated",
        "generation_settings",
        "prompt",
        "has_new_line",
        "truncated",
        "stop_type",
        "stopping_word",
        "tokens_cached",
        "timings",
        "completion_probabilities",
    }
    assert told["stop_type"] == "word" and told["stopping_word"] == "END" and told["has_new_line"] is True
    assert told["prompt"] == "<bos>Hello" and told["completion_probabilities"] == [probability]
    assert told["generation_settings"]["n_predict"] == 3 and told["generation_settings"]["temperature"] == 0


def test_a_native_caller_may_name_the_fields_it_wants() -> None:
    body = {"prompt": "Hello", "response_fields": ["content", "generation_settings/top_k", "nope", "content/deep"]}
    assert post(native_hub(spoken("x")), "/completion", body).json() == {
        "content": "x",
        "generation_settings/top_k": 40,
    }


def test_a_native_stream_has_no_done() -> None:
    hub = native_hub(delta(text="a"), delta(text="b", finish="length"), spoken("ab", "length"))
    *told, last = chunks(post(hub, "/completion", {"prompt": "Hello", "stream": True}))
    assert [line["content"] for line in told] == ["a", "b"] and not any(line["stop"] for line in told)
    assert last["stop"] is True and last["content"] == "" and last["stop_type"] == "limit"
    assert last["prompt"] == "<bos>Hello" and {line["tokens_evaluated"] for line in told} == {2}


def test_an_echo_counts_for_no_token_of_a_native_stream() -> None:
    hub = native_hub(
        {**delta(text="Hello"), "tokens": []},
        {**delta(text="a", finish="length"), "tokens": [5]},
        spoken("Helloa", "length"),
    )
    *told, _ = chunks(post(hub, "/completion", {"prompt": "Hello", "echo": True, "stream": True}))
    assert [(line["content"], line["tokens_predicted"]) for line in told] == [("Hello", 0), ("a", 1)]


def test_a_native_stream_waits_for_a_model_that_loads() -> None:
    hub = ScriptedHub(lambda draft: [1.3, {"type": "started"}, delta(text="a"), spoken("a")])
    hub.state = ModelState("loading")
    reply = post(hub, "/completion", {"prompt": "Hello", "stream": True})
    assert reply.status_code == 200 and ": queued 0 ahead" in reply.text and not hub.asked


# -- tokens, properties


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


# -- messages (Anthropic)


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
            "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "42"},
        {"role": "user", "content": [{"type": "text", "text": "And?"}]},
    ]
    assert job["generation"] == {"max_tokens": 50, "stop": ["END"]}
    assert job["tool_choice"] == {"type": "function", "function": {"name": "f"}}
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


# -- responses


def test_responses_input_items_become_chat_messages() -> None:
    hub = says(answer("ok"))
    body = {
        "model": "m",
        "instructions": "Be brief.",
        "max_output_tokens": 20,
        "reasoning": {"effort": "none"},
        "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True}},
        "tools": [{"type": "function", "name": "f", "parameters": {}}],
        "tool_choice": {"type": "function", "name": "f"},
        "input": [
            {"role": "user", "content": "Hello"},
            {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]},
            {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "42"},
            {
                "role": "user",
                "content": [{"type": "input_text", "text": "And?"}, {"type": "input_image", "image_url": png()}],
            },
        ],
    }
    reply = post(hub, "/v1/responses", body)
    assert reply.status_code == 200, reply.text
    (sha,) = hub.blobs
    job = hub.requests[0]
    assert job["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "Hi"}],
            "reasoning_content": "hm",
            "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "42"},
        {"role": "user", "content": [{"type": "text", "text": "And?"}, {"type": "image", "blob": sha}]},
    ]
    assert job["generation"] == {"max_tokens": 20, "json_schema": {"type": "object"}}
    assert job["tool_choice"] == {"type": "function", "function": {"name": "f"}} and job["enable_thinking"] is False


def test_a_previous_response_is_refused_in_a_sentence() -> None:
    reply = post(says(answer("")), "/v1/responses", {"input": "x", "previous_response_id": "resp_1"})
    assert reply.status_code == 400 and "not stored" in reply.json()["error"]["message"]


def test_a_response_cut_by_length_is_incomplete() -> None:
    told = post(says(answer("Hi", "length")), "/v1/responses", {"input": "x"}).json()
    assert told["status"] == "incomplete" and told["incomplete_details"] == {"reason": "max_output_tokens"}
    assert told["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 10,
    }


def test_a_response_stream_is_numbered_and_complete() -> None:
    hub = says(delta(reasoning_content="hm"), delta(content="Hi"), answer("Hi", reasoning_content="hm"))
    told = chunks(post(hub, "/v1/responses", {"input": "x", "stream": True}))
    assert [event["type"] for event in told] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert [item["type"] for item in told[-1]["response"]["output"]] == ["reasoning", "message"]
