"""OpenAI's Response object and the events of a streamed one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from batch.api.generation.jobs import note_comment
from batch.api.jobs.event_stream import named
from batch.api.jobs.submit import random_id
from batch.api.responses.request import ResponsesBody
from batch.errors import BatchError


def frame(body: ResponsesBody, model: str, created: int) -> dict[str, Any]:
    """A response that has just begun: everything that is known before the first token."""
    reasoning = {"effort": body.reasoning.effort if body.reasoning else None, "summary": None}
    text = {"format": (body.text.format if body.text else None) or {"type": "text"}}
    return {
        "id": random_id("resp_"),
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "model": model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": reasoning,
        "service_tier": "default",
        "store": False,
        "temperature": body.temperature,
        "text": text,
        "tool_choice": "auto" if body.tool_choice is None else body.tool_choice,
        "tools": [tool for tool in body.tools or [] if tool.get("type") == "function"],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": body.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": body.user,
    }


def finished(begun: Mapping[str, Any], result: Mapping[str, Any], output: list[dict[str, Any]]) -> dict[str, Any]:
    """The response once its job has ended."""
    usage, cut = result["usage"], result["choices"][0]["finish_reason"] == "length"
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    thought = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens", 0)
    return {
        **begun,
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "completed_at": None if cut else int(time.time()),
        "output": output,
        "usage": {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": thought},
            "total_tokens": usage["total_tokens"],
        },
    }


def reasoning_item(text: str, key: str, status: str = "completed") -> dict[str, Any]:
    content = [{"type": "reasoning_text", "text": text}] if text else []
    return {
        "id": key,
        "type": "reasoning",
        "summary": [],
        "content": content,
        "encrypted_content": "",
        "status": status,
    }


def text_part(text: str, logprobs: list[Any] | None = None) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs or []}


def message_item(parts: list[dict[str, Any]], key: str, status: str = "completed") -> dict[str, Any]:
    return {"id": key, "type": "message", "role": "assistant", "status": status, "content": parts}


def call_item(call: Mapping[str, Any], status: str = "completed") -> dict[str, Any]:
    """A function call; the id the model's call has goes on as call_id, by which its output is matched."""
    key, function = str(call.get("id") or random_id("")), call["function"]
    bare = key.removeprefix("call_")
    return {
        "id": f"fc_{bare}",
        "type": "function_call",
        "status": status,
        "arguments": function.get("arguments") or "",
        "call_id": f"call_{bare}",
        "name": function.get("name") or "",
    }


def response(body: ResponsesBody, result: Mapping[str, Any], model: str, created: int) -> dict[str, Any]:
    """The whole answer of a Responses request."""
    choice = result["choices"][0]
    message = choice["message"]
    cut = "incomplete" if choice["finish_reason"] == "length" else "completed"
    output = []
    if message.get("reasoning_content"):
        output.append(reasoning_item(message["reasoning_content"], random_id("rs_")))
    if message.get("content"):
        part = text_part(message["content"], (choice.get("logprobs") or {}).get("content"))
        output.append(message_item([part], random_id("msg_"), cut))
    output += [call_item(call) for call in message.get("tool_calls") or []]
    return finished(frame(body, model, created), result, output)


class ResponseEvents:
    """The Wire of /v1/responses. One item is open at a time: a thought, the message, or one of the calls."""

    def __init__(self, body: ResponsesBody, model: str, created: int) -> None:
        self._frame = frame(body, model, created)
        self._output: list[dict[str, Any]] = []
        self._open: str | int | None = None
        self._item: dict[str, Any] = {}
        self._text = ""
        self._logprobs: list[Any] = []
        self._number = 0
        self._begun = False

    def _say(self, event: str, **fields: Any) -> bytes:
        words = named(event, {"type": event, "sequence_number": self._number, **fields})
        self._number += 1
        return words

    def _in_item(self, event: str, **fields: Any) -> bytes:
        return self._say(event, item_id=self._item["id"], output_index=len(self._output), **fields)

    def _begin(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        created = self._say("response.created", response=self._frame)
        return created + self._say("response.in_progress", response=self._frame)

    def event(self, job: int, event: Mapping[str, Any]) -> bytes:
        if event["type"] == "progress":  # a job that is refused at its start tells of none, and stays an HTTP error
            return self._begin()
        if event["type"] != "delta" or event.get("index", 0):
            return b""
        delta, words = event.get("delta") or {}, self._begin()
        if thought := delta.get("reasoning_content"):
            words += self._enter("reasoning")
            self._text += thought
            words += self._in_item("response.reasoning_text.delta", content_index=0, delta=thought)
        if (text := delta.get("content")) or (event.get("logprobs") and self._open == "message"):
            text = text or ""
            words += self._enter("message")
            logprobs = (event.get("logprobs") or {}).get("content") or []
            self._text += text
            self._logprobs += logprobs
            words += self._in_item("response.output_text.delta", content_index=0, delta=text, logprobs=logprobs)
        for call in delta.get("tool_calls") or []:
            function = call.get("function") or {}
            words += self._enter(call.get("index", 0), call)
            if arguments := function.get("arguments"):
                self._text += arguments
                words += self._in_item("response.function_call_arguments.delta", delta=arguments)
        return words

    def _enter(self, item: str | int, call: Mapping[str, Any] | None = None) -> bytes:
        if self._open == item:
            return b""
        words = self._leave("completed")
        self._open, self._text, self._logprobs = item, "", []
        if item == "reasoning":
            self._item = reasoning_item("", random_id("rs_"), "in_progress")
        elif item == "message":
            self._item = message_item([], random_id("msg_"), "in_progress")
        elif call is not None:
            named_only = {**(call.get("function") or {}), "arguments": ""}
            self._item = call_item({**call, "function": named_only}, "in_progress")
        words += self._say("response.output_item.added", output_index=len(self._output), item=self._item)
        if item == "message":
            words += self._in_item("response.content_part.added", content_index=0, part=text_part(""))
        return words

    def _leave(self, status: str) -> bytes:
        """Close the open item and put it into the output."""
        if self._open is None:
            return b""
        if self._open == "reasoning":
            words = self._in_item("response.reasoning_text.done", content_index=0, text=self._text)
            item = reasoning_item(self._text, self._item["id"])
        elif self._open == "message":
            part = text_part(self._text, self._logprobs)
            told = {"text": self._text, "logprobs": self._logprobs}
            words = self._in_item("response.output_text.done", content_index=0, **told)
            words += self._in_item("response.content_part.done", content_index=0, part=part)
            item = message_item([part], self._item["id"], status)
        else:
            item = {**self._item, "arguments": self._text, "status": "completed"}
            words = self._in_item("response.function_call_arguments.done", name=item["name"], arguments=self._text)
        words += self._say("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        self._open = None
        return words

    def done(self, job: int, result: Mapping[str, Any]) -> bytes:
        cut = result["choices"][0]["finish_reason"] == "length"
        words = self._begin() + self._leave("incomplete" if cut else "completed") + note_comment(result)
        whole = finished(self._frame, result, self._output)
        extra = {"timings": result["timings"]} if result.get("timings") else {}
        return words + self._say("response.incomplete" if cut else "response.completed", response=whole, **extra)

    def close(self) -> bytes:
        return b""

    def error(self, error: BatchError) -> bytes:
        failed = {
            **self._frame,
            "status": "failed",
            "output": self._output,
            "error": {"code": "server_error", "message": error.message},
        }
        words = self._begin() + self._say("response.failed", response=failed)
        return words + self._say("error", code=str(error.status), message=error.message, param=None)
