"""Calls of a history reach templates that take objects, also where max_tokens cut them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from batch.workers.chat.prompt.call_arguments import read_arguments
from batch.workers.chat.prompt.template import ChatTemplate


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"city": "Paris"}', {"city": "Paris"}),
        ("", {}),
        (" \n", {}),
        ('{"city": "Par', {"city": "Par"}),
        ('{"a": 1, "b": [1, {"c": "d', {"a": 1, "b": [1, {"c": "d"}]}),
        ('{"a": 1, "b', {"a": 1}),
        ('{"a": 1, "b":', {"a": 1}),
        ('{"a": 1, "b": tr', {"a": 1}),
        ('{"a": "x\\', {"a": "x"}),
        ("{", {}),
        ("no JSON", {"arguments": "no JSON"}),
        ('{"a": tr', {"arguments": '{"a": tr'}),
        ("[1, 2]", {"arguments": [1, 2]}),
        ("5", {"arguments": 5}),
    ],
)
def test_arguments_are_taken_as_they_are_cut_or_whole(text: str, arguments: dict[str, Any]) -> None:
    assert read_arguments(text) == arguments


def test_every_beginning_of_a_call_is_an_object_and_costs_little() -> None:
    whole = json.dumps({"query": 'say "hi" \\ é', "deep": {"list": [1, -2.5e3, None, True], "empty": {}}, "last": "z"})
    for end in range(len(whole) + 1):
        assert isinstance(read_arguments(whole[:end]), dict)
    started = time.monotonic()
    read_arguments('{"a": "' + "x, " * 5_000_000)
    read_arguments('{"a": [' + "[1, " * 20_000)
    assert time.monotonic() - started < 30


def test_a_cut_call_is_rendered_by_a_template_that_takes_objects() -> None:
    source = (
        "{% for m in messages %}{% for c in m.tool_calls or [] %}{% for k, v in c.function.arguments.items() %}"
        "{{ k }}={{ v }};{% endfor %}{% endfor %}{% endfor %}"
    )
    call = {"id": "1", "function": {"name": "f", "arguments": '{"city": "Par'}}
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    segments = ChatTemplate(source, "", "").render_segments(messages, tools=None, enable_thinking=None, kwargs={})
    assert "".join(getattr(segment, "text", "") for segment in segments) == "city=Par;"
