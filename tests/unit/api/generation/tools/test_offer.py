"""Tools, tool_choice and roles are checked once, for every API's own form of them, before anything is queued."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from batch.api.generation.tools.offer import MAX_NAME_CHARS, MAX_TOOLS
from chat_calls import HELLO, post, says
from scripted_hub import answer

Form = tuple[str, dict[str, Any], Callable[[Any], dict[str, Any]], str]
"""Path, the rest of the body, how a tool of a name is written, and where its name stands."""

FORMS: dict[str, Form] = {
    "chat": (
        "/v1/chat/completions",
        {"messages": HELLO},
        lambda name: {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}},
        "function.name",
    ),
    "responses": (
        "/v1/responses",
        {"input": "Hello"},
        lambda name: {"type": "function", "name": name, "parameters": {"type": "object"}},
        "name",
    ),
    "messages": (
        "/v1/messages",
        {"messages": HELLO, "max_tokens": 5},
        lambda name: {"name": name, "input_schema": {"type": "object"}},
        "name",
    ),
}


def refusal(form: str, tools: list[Any], **more: Any) -> tuple[str, str | None]:
    """The sentence and the param of a refusal; nothing may be queued."""
    path, body, _, _ = FORMS[form]
    hub = says(answer("Hi"))
    reply = post(hub, path, {**body, "tools": tools, **more})
    assert reply.status_code == 400 and not hub.drafts, reply.text
    error = reply.json()["error"]
    return error["message"], error.get("param")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "name",
    ["a b", "", None, 5, "x" * (MAX_NAME_CHARS + 1), "x" * 300, "a\nb", 'a"b', "a{b", "a<b>", "a|b", "a\x00b", "\u202eevil"],
)
def test_a_name_that_no_call_could_hold_is_refused_before_anything_is_queued(form: str, name: Any, stream: bool) -> None:
    _, _, tool, field = FORMS[form]
    sentence, param = refusal(form, [tool("good"), tool(name)], stream=stream)
    assert f"'tools[1].{field}'" in sentence and len(sentence) < 300
    assert param == (None if form == "messages" else f"tools[1].{field}"), "Anthropic's errors have no such field"


@pytest.mark.parametrize("form", FORMS)
def test_the_same_name_twice_is_refused(form: str) -> None:
    _, _, tool, field = FORMS[form]
    sentence, _ = refusal(form, [tool("f"), tool("g"), tool("f")])
    assert f"'tools[2].{field}'" in sentence and '"f" already' in sentence


@pytest.mark.parametrize("form", FORMS)
def test_at_most_512_tools_are_taken(form: str) -> None:
    path, body, tool, _ = FORMS[form]
    tools = [tool(f"f{n}") for n in range(MAX_TOOLS + 1)]
    assert "at most 512" in refusal(form, tools)[0]
    hub = says(answer("Hi"))
    assert post(hub, path, {**body, "tools": tools[:-1]}).status_code == 200
    assert len(hub.requests[0]["tools"]) == MAX_TOOLS


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["search", "mcp__files-read.v2", "天气", "x" * MAX_NAME_CHARS])
def test_names_that_programs_use_are_taken(form: str, name: str) -> None:
    path, body, tool, _ = FORMS[form]
    hub = says(answer("Hi"))
    assert post(hub, path, {**body, "tools": [tool(name)]}).status_code == 200
    assert hub.requests[0]["tools"][0]["function"]["name"] == name


@pytest.mark.parametrize(
    ("form", "tool", "field"),
    [
        ("responses", {"type": "web_search"}, "tools[0].type"),
        ("responses", {"type": "file_search", "vector_store_ids": ["x"]}, "tools[0].type"),
        ("responses", {"type": "code_interpreter"}, "tools[0].type"),
        ("responses", {"type": "mcp", "server_label": "x"}, "tools[0].type"),
        ("responses", {"name": "f"}, "tools[0].type"),
        ("chat", {"type": "web_search_preview"}, "tools[0].type"),
        ("messages", {"type": "web_search_20250305", "name": "web_search"}, "tools[0].type"),
        ("messages", {"type": "bash_20250124", "name": "bash"}, "tools[0].type"),
    ],
)
def test_tools_that_run_elsewhere_are_refused_by_name_and_never_dropped(form: str, tool: Any, field: str) -> None:
    sentence, _ = refusal(form, [tool])
    assert f"'{field}'" in sentence and (tool.get("type", "None") in sentence)


@pytest.mark.parametrize(
    ("form", "tool", "field"),
    [
        ("chat", {"type": "function", "function": {"name": "f", "parameters": []}}, "tools[0].function.parameters"),
        ("chat", {"type": "function", "function": {"name": "f", "description": 5}}, "tools[0].function.description"),
        ("responses", {"type": "function", "name": "f", "parameters": "x"}, "tools[0].parameters"),
        ("messages", {"name": "f", "input_schema": [1]}, "tools[0].input_schema"),
        ("chat", "f", "tools[0]"),
        ("responses", "f", "tools[0]"),
        ("messages", 5, "tools[0]"),
    ],
)
def test_a_wrong_part_of_a_tool_is_named(form: str, tool: Any, field: str) -> None:
    assert f"'{field}'" in refusal(form, [tool])[0]


@pytest.mark.parametrize(
    ("form", "choice"),
    [
        ("chat", {"type": "function", "function": {"name": "g"}}),
        ("chat", {"type": "function"}),
        ("chat", {"type": "function", "function": {"name": 5}}),
        ("chat", {"type": "custom", "custom": {"name": "g"}}),
        ("chat", "always"),
        ("chat", {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [5]}}),
        ("responses", {"type": "function", "name": "g"}),
        ("responses", {"type": "web_search"}),
        ("responses", {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]}),
        ("messages", {"type": "tool", "name": "g"}),
        ("messages", {"type": "tool"}),
        ("messages", {"type": "must"}),
    ],
)
def test_a_choice_that_cannot_be_followed_is_refused(form: str, choice: Any) -> None:
    assert "tool_choice" in refusal(form, [FORMS[form][2]("f")], tool_choice=choice)[0]


def test_allowed_tools_of_responses_stand_without_a_function_object() -> None:
    hub = says(answer("Hi"))
    tools = [FORMS["responses"][2](name) for name in ("f", "g")]
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]}
    assert post(hub, "/v1/responses", {"input": "x", "tools": tools, "tool_choice": choice}).status_code == 200
    request = hub.requests[0]
    assert [tool["function"]["name"] for tool in request["tools"]] == ["g"] and request["tool_choice"] == "required"


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ("/v1/chat/completions", {"messages": [{"role": 5, "content": "x"}]}, "messages[0].role"),
        ("/v1/chat/completions", {"messages": [{"content": "x"}]}, "messages[0].role"),
        ("/v1/responses", {"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ("/v1/responses", {"input": [{"content": "x"}]}, "input[0].role"),
        ("/v1/messages", {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ("/v1/messages", {"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
    ],
)
def test_an_unknown_role_is_named(path: str, body: dict[str, Any], field: str) -> None:
    hub = says(answer("Hi"))
    reply = post(hub, path, body)
    assert reply.status_code == 400 and f"'{field}'" in reply.json()["error"]["message"] and not hub.drafts
