"""Calls as Python writes them: what the grammar lets through is read as the call that it is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batch.workers.chat.dialects.dialect import for_template
from grammar_setup import build, takes

LIQUID = for_template("List of tools: [")
OBJECT: dict[str, Any] = {"type": "object"}
PARAMETERS = {"type": "object", "properties": {"a": {"type": "string"}, "tags": {"type": "array"}, "more": OBJECT}}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}]


def arguments(text: str) -> list[Any]:
    """Of each call; the message must be text that can be sent."""
    parser = LIQUID.parser(functions=frozenset({"f"}))
    parser.feed(f"<|tool_call_start|>{text}<|tool_call_end|>")
    parser.finish()
    message = parser.message()
    str(message).encode()
    return [json.loads(call["function"]["arguments"]) for call in message.get("tool_calls", ())]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('[f(a="]", tags=[\n"x",\n {"k":\n1}])]', {"a": "]", "tags": ["x", {"k": 1}]}),
        (r'[f(a="\ud83d\ude00 \" \n")]', {"a": '😀 " \n'}),
        ('[f(more={"k": null, "n": true})]', {"more": {"k": None, "n": True}}),
    ],
    ids=["line feeds between values", "a character in two escapes", "JSON's words"],
)
def test_a_call_that_the_grammar_lets_through_is_read(text: str, value: Any) -> None:
    required = build(None, TOOLS, "required", dialect=LIQUID)
    assert takes(required, f"<|tool_call_start|>{text}<|tool_call_end|>")
    assert arguments(text) == [value]


@pytest.mark.parametrize("text", ['[f(a=b"x")]', "[f(a=1j)]", "[f(a=...)]", "[g()]", "f("])
def test_what_is_no_call_stays_text(text: str) -> None:
    assert arguments(text) == []


def test_half_a_character_is_replaced_and_a_line_feed_in_a_text_is_kept() -> None:
    assert arguments('[f(a="\\ud83d"), f(a="one\ntwo")]') == [{"a": "\ufffd"}, {"a": "one\ntwo"}]
