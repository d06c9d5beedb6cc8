"""OpenAI's Responses."""

from __future__ import annotations

from chat_calls import (
    chunks,
    png,
    post,
    says,
)
from scripted_hub import answer, delta


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
            "tool_calls": [{"id": "call_1", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "42"},
        {"role": "user", "content": [{"type": "text", "text": "And?"}, {"type": "image", "blob": sha}]},
    ]
    assert job["generation"] == {"max_tokens": 20, "json_schema": {"type": "object"}}
    assert job["tool_choice"] == {"name": "f"} and job["enable_thinking"] is False


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
