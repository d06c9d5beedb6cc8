"""Answers and streams of chat requests."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from batch.api.app import create_app
from batch.errors import BatchError, ContextExceeded, QueueFull, Unavailable
from batch.payloads.questions import Question
from batch.queue.jobs import Kind
from batch.queue.store import StoreAway
from batch.settings import Settings
from chat_calls import (
    HELLO,
    chat,
    says,
    streamed,
)
from scripted_hub import TIMINGS, USAGE, ScriptedHub, answer, delta


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


def test_a_job_that_runs_is_not_asked_about_beside_its_work_and_one_that_waits_is() -> None:
    """Counting its tokens would render its template a second time, on the cores that compute its prompt."""
    running = says(0.2, delta(content="Hi"), answer("Hi"))
    streamed(running)
    assert not running.asked
    waiting = ScriptedHub(lambda draft: [0.2, {"type": "started"}, delta(content="Hi"), answer("Hi")])
    streamed(waiting)
    assert [name for name, _ in waiting.asked] == ["count"]


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
        result["choices"][0]["prefill"] = {"content": len("Well:")}
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


def test_a_request_that_waits_is_answered_though_its_place_cannot_be_looked_up_and_nobody_counts_its_tokens() -> None:
    class Away(ScriptedHub):
        async def ask(self, queue: str, question: Question, timeout: float = 60) -> Any:
            await asyncio.sleep(timeout)  # a machine that just died
            raise Unavailable("no answer")

    hub = Away(lambda draft: [1.4, {"type": "started"}, delta(content="Hi"), answer("Hi")])
    hub.places = [StoreAway(), StoreAway(), 0]
    begun = time.monotonic()
    reply = chat({"stream": True}, hub)
    assert reply.status_code == 200 and '"content":"Hi"' in reply.text and reply.text.endswith("data: [DONE]\n\n")
    assert time.monotonic() - begun < 8, "it is not waited for whoever counts"


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
