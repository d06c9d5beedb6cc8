"""OpenAI's Responses."""

from __future__ import annotations

from typing import Any

import pytest

from batch.errors import BatchError, Cancelled, ContextExceeded
from batch.payloads.questions import CountTokens, TokenCount
from batch.queue.jobs import Kind
from chat_calls import chunks, png, post, says
from scripted_hub import ScriptedHub, answer, delta


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
    (sha,) = hub.spool.names()
    job = hub.requests[0]
    assert job["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "Hi"}],
            "reasoning_content": "hm",
            "tool_calls": [{"id": "call_1", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "42"},
        {"role": "user", "content": [{"type": "text", "text": "And?"}, {"type": "image", "blob": sha}]},
    ]
    assert job["generation"] == {"max_tokens": 20, "json_schema": {"type": "object"}}
    assert job["tool_choice"] == {"name": "f"} and job["enable_thinking"] is False


def test_a_previous_response_that_is_not_there_is_refused_in_a_sentence() -> None:
    reply = post(says(answer("")), "/v1/responses", {"input": "x", "previous_response_id": "resp_1"})
    error = reply.json()["error"]
    assert reply.status_code == 400 and error["code"] == "previous_response_not_found"
    assert error["message"] == "Previous response with id 'resp_1' not found."


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


# -- the order of events


HEAD = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
EVERYTHING: list[Any] = [
    delta(reasoning_content="h"),
    delta(reasoning_content="m"),
    delta(content="H"),
    delta(content="i"),
    delta(tool_calls=[HEAD]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": '{"a":1}'}}]),
    delta(finish="tool_calls"),
    answer("Hi", "tool_calls", reasoning_content="hm", tool_calls=[CALL]),
]


def events(hub: ScriptedHub, **body: Any) -> list[dict[str, Any]]:
    reply = post(hub, "/v1/responses", {"input": "x", "stream": True, **body})
    assert reply.status_code == 200, reply.text
    names = [line.removeprefix("event: ") for line in reply.text.splitlines() if line.startswith("event: ")]
    told: list[dict[str, Any]] = chunks(reply)
    assert names == [event["type"] for event in told]
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    return told


def test_every_item_is_opened_filled_and_closed_in_openais_order() -> None:
    told = events(says(*EVERYTHING))
    assert [event["type"].removeprefix("response.") for event in told] == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta"),
        *("reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"),
        "completed",
    ]
    added = [event["item"] for event in told if event["type"].endswith("output_item.added")]
    done = [event["item"] for event in told if event["type"].endswith("output_item.done")]
    final = told[-1]["response"]["output"]
    assert [item["id"] for item in added] == [item["id"] for item in done] == [item["id"] for item in final]
    assert [event["output_index"] for event in told if event["type"].endswith("item.added")] == [0, 1, 2] and done == final
    assert {item["status"] for item in added} == {"in_progress"} and {item["status"] for item in done} == {"completed"}
    assert added[0]["content"] == [] == added[0]["summary"] and done[0]["content"][0]["text"] == "hm"
    assert done[1]["content"] == [{"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}]
    assert (done[2]["name"], done[2]["arguments"], done[2]["call_id"]) == ("f", '{"a":1}', "call_1")
    for event in told:
        if "delta" in event or (event["type"].endswith((".added", ".done")) and "part" in event):
            assert event["item_id"] == added[event["output_index"]]["id"]
    assert told[0]["response"]["id"] == told[-1]["response"]["id"] and told[0]["response"]["output"] == []


def test_a_summary_takes_the_thoughts_place_where_one_is_asked_for() -> None:
    told = events(says(*EVERYTHING), reasoning={"summary": "auto"})
    kinds = [event["type"].removeprefix("response.") for event in told]
    assert kinds[2:9] == [
        *("output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta", "reasoning_summary_text.delta"),
        *("reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done"),
    ]
    assert all(event["summary_index"] == 0 for event in told if "summary_part" in event["type"])
    item = told[-1]["response"]["output"][0]
    assert item["summary"] == [{"type": "summary_text", "text": "hm"}] and item["content"] == []
    whole = post(says(EVERYTHING[-1]), "/v1/responses", {"input": "x", "reasoning": {"summary": "detailed"}}).json()
    assert whole["output"][0]["summary"] == [{"type": "summary_text", "text": "hm"}]


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ([delta(content="H"), answer("H", "length")], "message"),
        ([delta(reasoning_content="h"), answer("", "length", reasoning_content="h")], "reasoning"),
        (
            [
                delta(tool_calls=[HEAD]),
                answer("", "length", tool_calls=[{**CALL, "function": {"name": "f", "arguments": "{"}}]),
            ],
            "function_call",
        ),
    ],
)
def test_an_item_cut_by_length_is_incomplete_and_its_end_is_sent(script: list[Any], kind: str) -> None:
    told = events(says(*script))
    assert told[-1]["type"] == "response.incomplete"
    assert told[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    (done,) = [event["item"] for event in told if event["type"] == "response.output_item.done"]
    assert done["type"] == kind and done["status"] == "incomplete" and told[-1]["response"]["output"] == [done]
    (item,) = post(says(script[-1]), "/v1/responses", {"input": "x"}).json()["output"]
    assert item["status"] == "incomplete" and item["type"] == kind


def test_nothing_follows_the_last_event_of_a_stream_that_broke() -> None:
    told = events(says(delta(content="H"), BatchError("broke")))
    assert told[-1]["type"] == "response.failed" and sum("failed" in event["type"] for event in told) == 1
    response = told[-1]["response"]
    assert response["status"] == "failed" and response["error"] == {"code": "server_error", "message": "broke"}
    assert [item["status"] for item in response["output"]] == ["incomplete"]
    assert told[-2]["type"] == "response.output_item.done"


def test_a_cancelled_response_says_so_in_its_last_event() -> None:
    told = events(says(delta(content="H"), Cancelled("stopped")))
    assert told[-1]["type"] == "response.failed"
    assert told[-1]["response"]["status"] == "cancelled" and told[-1]["response"]["error"] is None


def test_an_error_before_anything_began_is_an_error_event_alone() -> None:
    hub = ScriptedHub(lambda draft: [1.2, ContextExceeded("too long", n_prompt_tokens=9, n_ctx=4)])
    told = events(hub)
    assert [event["type"] for event in told] == ["error"] and told[0]["message"] == "too long"


# -- truncation


def counted_by_words(hub: ScriptedHub, n_ctx: int) -> None:
    """Let the scripted engine count the words of the messages as tokens."""
    plain = hub.ask

    async def ask(kind: Kind, question: Any, timeout: float = 60) -> Any:
        if not isinstance(question, CountTokens):
            return await plain(kind, question, timeout)
        words = [str(message.content or message.tool_calls).split() for message in question.payload.messages]
        return TokenCount(tokens=sum(map(len, words)), n_ctx=n_ctx)

    hub.ask = ask  # type: ignore[method-assign]


LONG = "word " * 30
CONVERSATION: list[Any] = [
    {"role": "user", "content": LONG},
    {"role": "assistant", "content": LONG},
    {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": LONG},
    {"role": "user", "content": "short question"},
    {"role": "assistant", "content": "short answer"},
    {"role": "user", "content": "the last"},
]


def test_truncation_auto_drops_the_oldest_turns_a_call_together_with_its_output() -> None:
    hub = says(answer("Hi"))
    counted_by_words(hub, 60)
    body = {"instructions": "be brief", "input": CONVERSATION, "truncation": "auto", "max_output_tokens": 5}
    reply = post(hub, "/v1/responses", body)
    assert reply.status_code == 200, reply.text
    contents = [message["content"] for message in hub.requests[0]["messages"]]
    assert contents == ["be brief", "short question", [{"type": "text", "text": "short answer"}], "the last"]
    assert "the 3 oldest" in reply.headers["x-batch-note"] and reply.json()["truncation"] == "auto"
    streamed = post(hub, "/v1/responses", {**body, "stream": True})
    assert ": note: the 3 oldest" in streamed.text


def test_truncation_drops_nothing_from_what_fits_and_never_the_last_user_turn() -> None:
    hub = says(answer("Hi"))
    counted_by_words(hub, 1000)
    reply = post(hub, "/v1/responses", {"input": CONVERSATION, "truncation": "auto"})
    assert len(hub.requests[0]["messages"]) == 6 and "x-batch-note" not in reply.headers
    counted_by_words(hub, 4)
    post(hub, "/v1/responses", {"input": CONVERSATION, "truncation": "auto"})
    assert [message["content"] for message in hub.requests[1]["messages"]] == ["the last"]


def test_without_truncation_a_long_input_is_left_to_be_refused() -> None:
    hub = says(answer("Hi"))
    counted_by_words(hub, 4)
    assert post(hub, "/v1/responses", {"input": CONVERSATION, "truncation": "disabled"}).status_code == 200
    assert len(hub.requests[0]["messages"]) == 6
    assert post(hub, "/v1/responses", {"input": "x", "truncation": "some"}).status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        {"metadata": {str(n): "x" for n in range(17)}},
        {"metadata": {"k" * 65: "x"}},
        {"metadata": {"k": "v" * 513}},
        {"user": "u" * 600},
        {"model": "m" * 300},
    ],
)
def test_what_an_answer_repeats_has_a_bound(body: dict[str, Any]) -> None:
    reply = post(says(answer("Hi")), "/v1/responses", {"input": "x", **body})
    assert reply.status_code == 400 and next(iter(body)) in reply.json()["error"]["message"]
