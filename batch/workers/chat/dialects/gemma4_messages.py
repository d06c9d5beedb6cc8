"""What Gemma 4's chat templates need around them: older ones know tool results only as part of the model's turn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from batch.workers.chat.dialects.template_values import TemplateObject, TemplateValue

_CALLS = "'<|tool_call>call:'"
_KNOWS_TOOL_ROLE = "{#- OpenAI Chat Completions:"
_CLOSES_LINE = "+ '\\n<channel|>'"
_TURN_END = "<turn|>\n"
_TURN_START = "<|turn>model\n"


def calls_tools(source: str) -> bool:
    """Whether this is a Gemma 4 template that writes tool calls."""
    return _CALLS in source


def prepare(source: str, messages: Sequence[TemplateValue]) -> list[TemplateObject]:
    """The messages as this template wants them: for an old one, each call with its results in one model turn."""
    if _CLOSES_LINE in source:
        messages = [_unlined(m) for m in messages]
    if not calls_tools(source) or _KNOWS_TOOL_ROLE in source:
        return [dict(m) for m in messages]
    out: list[TemplateObject] = []
    at = 0
    while at < len(messages):
        message = dict(messages[at])
        at += 1
        if message.get("role") == "assistant" and message.get("tool_calls"):
            at = _gather(message, messages, at)
        out.append(message)
    return out


def finish(source: str, prompt: str, add_generation_prompt: bool) -> str:
    """What to append: the template forgets to open the model's turn after a turn of text with a tool call."""
    return _TURN_START if add_generation_prompt and calls_tools(source) and prompt.endswith(_TURN_END) else ""


def _unlined(message: TemplateValue) -> TemplateValue:
    """Thinking without its last line feed, which the template adds again: so a turn reads as it was generated, and
    the prompt cache still knows it."""
    thought = message.get("reasoning_content")
    return {**message, "reasoning_content": thought.removesuffix("\n")} if isinstance(thought, str) else message


def _gather(turn: TemplateObject, messages: Sequence[TemplateValue], at: int) -> int:
    """Move the tool results that follow, and a closing answer, into the turn; where to go on."""
    turn.pop("content", None)
    responses: list[TemplateObject] = []
    while at < len(messages) and messages[at].get("role") == "tool":
        calls = turn["tool_calls"]
        name = calls[len(responses)].get("function", {}).get("name") if len(responses) < len(calls) else None
        name = name or messages[at].get("tool_call_id") or ""
        responses.append({"name": name, "response": _response(messages[at].get("content"))})
        at += 1
    if responses:
        turn["tool_responses"] = responses
    if at < len(messages):
        answer = messages[at]
        if answer.get("role") == "assistant" and not answer.get("tool_calls") and answer.get("content"):
            turn["content"] = answer["content"]
            at += 1
    return at


def _response(content: Any) -> Any:
    if isinstance(content, list):
        content = "\n".join(str(p.get("text", "")) for p in content)
    if not isinstance(content, str):
        return content
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return content
