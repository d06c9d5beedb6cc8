"""What the service says can be sent back, and nothing in a history ends a session."""

from __future__ import annotations

from typing import Any

import pytest

from chat_calls import HELLO, post, says
from scripted_hub import ScriptedHub, answer


def sent(path: str, body: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """The job's messages, and the answer's note."""
    hub: ScriptedHub = says(answer("ok"))
    reply = post(hub, path, body)
    assert reply.status_code == 200, reply.text
    found: list[dict[str, Any]] = hub.requests[0]["messages"]
    return found, reply.headers.get("x-batch-note", "")


def anthropic(*turns: tuple[str, list[Any]]) -> tuple[list[dict[str, Any]], str]:
    messages = [{"role": role, "content": blocks} for role, blocks in turns]
    return sent("/v1/messages", {"max_tokens": 5, "messages": [*messages, {"role": "user", "content": "Go on"}]})


CUT = '{"city": "Par'


@pytest.mark.parametrize("arguments", [CUT, "", "{}", "[1]", "no JSON", '{"a": NaN}'])
def test_a_call_of_the_history_is_taken_as_it_is_cut_or_whole(arguments: str) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    messages, _ = sent("/v1/chat/completions", {"messages": [*HELLO, {"role": "assistant", "tool_calls": [call]}, *HELLO]})
    assert messages[1]["tool_calls"][0]["function"]["arguments"] == (arguments or "{}")
    item = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": arguments}
    messages, _ = sent("/v1/responses", {"input": [item, {"role": "user", "content": "Go on"}]})
    assert messages[0]["tool_calls"][0]["function"]["arguments"] == arguments


def test_a_custom_tools_call_is_taken_from_the_history() -> None:
    call = {"id": "c1", "type": "custom", "custom": {"name": "patch", "input": "*** Begin"}}
    messages, _ = sent("/v1/chat/completions", {"messages": [*HELLO, {"role": "assistant", "tool_calls": [call]}, *HELLO]})
    assert messages[1]["tool_calls"][0]["function"] == {"name": "patch", "arguments": '{"input": "*** Begin"}'}
    items = [
        {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": "*** Begin"},
        {"type": "custom_tool_call_output", "call_id": "c1", "output": "done"},
        {"role": "user", "content": "Go on"},
    ]
    messages, _ = sent("/v1/responses", {"input": items})
    assert messages[0]["tool_calls"][0]["function"] == {"name": "patch", "arguments": '{"input": "*** Begin"}'}
    assert messages[1] == {"role": "tool", "content": "done", "tool_call_id": "c1"}


def test_what_a_providers_tool_found_stands_between_the_assistants_words() -> None:
    found = [{"type": "web_search_result", "title": "T", "url": "https://x", "encrypted_content": "zzz"}]
    blocks = [
        {"type": "text", "text": "I look it up."},
        {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "q"}},
        {"type": "web_search_tool_result", "tool_use_id": "s1", "content": found},
        {"type": "text", "text": "It says T."},
    ]
    messages, note = anthropic(("user", [{"type": "text", "text": "?"}]), ("assistant", blocks))
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant", "user"]
    assert messages[1]["tool_calls"][0]["function"] == {"name": "web_search", "arguments": '{"query": "q"}'}
    assert '"title": "T"' in messages[2]["content"] and "zzz" not in messages[2]["content"] and not note
    assert messages[3]["content"] == [{"type": "text", "text": "It says T."}]


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("code_execution_tool_result", {"type": "code_execution_result", "stdout": "4", "return_code": 0}),
        ("web_fetch_tool_result", {"type": "web_fetch_result", "url": "https://x"}),
        ("mcp_tool_result", [{"type": "text", "text": "found"}]),
        ("bash_code_execution_tool_result", None),
    ],
)
def test_every_providers_result_is_taken(kind: str, content: Any) -> None:
    use = {"type": "server_tool_use", "id": "s1", "name": "x", "input": {}}
    messages, _ = anthropic(("assistant", [use, {"type": kind, "tool_use_id": "s1", "content": content}]))
    assert [message["role"] for message in messages] == ["assistant", "tool", "user"]


def test_a_search_result_and_a_compaction_are_texts() -> None:
    result = {
        "type": "search_result",
        "source": "https://x",
        "title": "T",
        "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}],
    }
    messages, _ = anthropic(("user", [result]), ("assistant", [{"type": "compaction", "content": "So far: x"}]))
    assert messages[0]["content"] == [{"type": "text", "text": "T https://x\n\none\ntwo"}]
    assert messages[1]["content"] == [{"type": "text", "text": "So far: x"}]
    tool_result = {"type": "tool_result", "tool_use_id": "t1", "content": [result]}
    use = {"type": "tool_use", "id": "t1", "name": "f", "input": {}}
    messages, _ = anthropic(("assistant", [use]), ("user", [tool_result]))
    assert messages[1] == {"role": "tool", "content": "T https://x\n\none\ntwo", "tool_call_id": "t1"}


@pytest.mark.parametrize("role", ["user", "assistant"])
@pytest.mark.parametrize("block", [{"type": "hologram", "id": "x"}, {"type": "container_upload", "file_id": "f"}, {}, 5, None])
def test_an_unknown_block_is_left_out_with_a_note(role: str, block: Any) -> None:
    messages, note = anthropic((role, [{"type": "text", "text": "Hi"}, block]))
    assert messages[0]["content"] == [{"type": "text", "text": "Hi"}]
    assert "were left out of the history" in note


def test_an_unknown_block_with_a_text_is_that_text() -> None:
    messages, note = anthropic(("user", [{"type": "hologram", "text": "Hi"}]))
    assert messages[0]["content"] == [{"type": "text", "text": "Hi"}] and not note


@pytest.mark.parametrize(
    "item",
    [
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}},
        {"type": "file_search_call", "id": "fs_1", "queries": ["q"], "results": None},
        {"type": "code_interpreter_call", "id": "ci_1", "code": "1", "outputs": []},
        {"type": "computer_call", "call_id": "c", "action": {}},
        {"type": "image_generation_call", "id": "ig_1", "result": "zzz"},
        {"type": "mcp_list_tools", "server_label": "x", "tools": []},
        {"type": "mcp_call", "id": "m", "name": "f", "arguments": "{}", "output": "x"},
        {"type": "compaction", "encrypted_content": "zzz"},
        {"type": "item_of_next_year", "content": {"x": 1}, "output": 5, "summary": "s"},
    ],
)
def test_items_that_say_nothing_to_the_model_are_left_out_with_a_note(item: dict[str, Any]) -> None:
    messages, note = sent("/v1/responses", {"input": [item, {"role": "user", "content": "Go on"}]})
    assert messages == [{"role": "user", "content": "Go on"}] and item["type"] in note


def test_a_streams_notes_stand_in_its_headers_and_comments() -> None:
    body = {"input": [{"type": "web_search_call"}, {"role": "user", "content": "Go on"}], "stream": True}
    reply = post(says(answer("ok")), "/v1/responses", body)
    assert "web_search_call" in reply.headers["x-batch-note"] and ": note: " in reply.text.split("event:")[0]


def test_unknown_parts_of_an_assistants_content_are_left_out() -> None:
    parts = [{"type": "text", "text": "Hi"}, {"type": "thinking_v2", "x": 1}]
    messages, note = sent("/v1/chat/completions", {"messages": [{"role": "assistant", "content": parts}, *HELLO]})
    assert messages[0]["content"] == [{"type": "text", "text": "Hi"}] and "thinking_v2" in note
    output = [{"type": "input_text", "text": "Hi"}, {"type": "hologram"}]
    items = [
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": output},
    ]
    messages, note = sent("/v1/responses", {"input": [*items, {"role": "user", "content": "Go on"}]})
    assert messages[1]["content"] == [{"type": "text", "text": "Hi"}] and "hologram" in note


def test_what_an_answer_says_can_be_sent_back_whole() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": CUT}}
    said = answer("Hi", "length", reasoning_content="hm", tool_calls=[call])
    message = post(says(said), "/v1/chat/completions", {"messages": HELLO}).json()["choices"][0]["message"]
    messages, _ = sent("/v1/chat/completions", {"messages": [*HELLO, message, *HELLO]})
    assert messages[1] == {**message, "tool_calls": [{"id": "call_1", "function": call["function"]}]}
    items = post(says(said), "/v1/responses", {"input": "x"}).json()["output"]
    messages, note = sent("/v1/responses", {"input": [*items, {"role": "user", "content": "Go on"}]})
    assert messages[0]["reasoning_content"] == "hm" and messages[0]["tool_calls"][0]["function"]["arguments"] == CUT
    content = post(says(said), "/v1/messages", {"messages": HELLO}).json()["content"]
    messages, note = anthropic(("assistant", content))
    assert messages[0]["reasoning_content"] == "hm" and not note
