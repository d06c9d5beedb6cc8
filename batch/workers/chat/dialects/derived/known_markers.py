"""Markers that are looked for in a template's text where it shows neither a thought nor a call."""

from __future__ import annotations

import re
from dataclasses import replace

from batch.workers.chat.dialects.derived.layout import AnswerLayout, CallLayout, JsonCall, TaggedArguments

THOUGHTS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
)
_ANSWER = ("<response>", "</response>")
TOOL_CALL = CallLayout(
    section_begin="",
    call_begin='<tool_call>\n{"name": "',
    name_end='", "arguments": ',
    call_end="}\n</tool_call>",
    separator="\n",
    section_end="",
    turn_end="",
    json_call=JsonCall("name", "arguments"),
)
"""The commonest way to write calls."""
_GRANITE = CallLayout(
    section_begin="<|tool_call|>[",
    call_begin='{"name": "',
    name_end='", "arguments": ',
    call_end="}",
    separator=", ",
    section_end="]",
    turn_end="",
    json_call=JsonCall("name", "arguments"),
)
_PYTHON = CallLayout(
    section_begin="<|tool_call_start|>[",
    call_begin="",
    name_end="(",
    call_end=")",
    separator=", ",
    section_end="]<|tool_call_end|>",
    turn_end="",
    tags=TaggedArguments("", {"string": "=", "number": "="}, "", ", ", is_python=True),
)


def answer_layout(source: str, answer: AnswerLayout) -> AnswerLayout:
    """The layout with the markers of thoughts that the template's text names."""
    thinking = next((pair for pair in THOUGHTS if pair[1] in source), None)
    if thinking and not answer.content_begin and _ANSWER[0] in source:
        return replace(answer, thinking=thinking, content_begin=_ANSWER[0], content_end=_ANSWER[1])
    return replace(answer, thinking=thinking)


def call_layout(source: str) -> CallLayout | None:
    """How calls are written, where the template's text tells it."""
    if any(mark in source for mark in ("<|tool_call_start|>", "<|tool_list_start|>", "List of tools: [")):
        return _PYTHON
    if "respond only with <|tool_call|> followed by a JSON list" in source:
        return _GRANITE
    return TOOL_CALL if _calls_functions(source) else None


def _calls_functions(source: str) -> bool:
    """Whether a template's text shows calls as JSON between `<tool_call>` and `</tool_call>`."""
    return "<tool_call>" in source and bool(re.search(r"""["']arguments["']""", source)) and "<function=" not in source
