"""OpenAI's chat.completion and its chunks, with llama-server's keys in llama-server's places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batch.api.errors import to_openai_error
from batch.api.generation.jobs import FINGERPRINT, note_comment
from batch.api.jobs.event_stream import data
from batch.api.jobs.submit import random_id
from batch.errors import BatchError


def completion(result: Mapping[str, Any], model: str, created: int) -> dict[str, Any]:
    """The whole answer of a chat job."""
    answer: dict[str, Any] = {
        "choices": [_choice(choice) for choice in result["choices"]],
        "created": created,
        "model": model,
        "system_fingerprint": FINGERPRINT,
        "object": "chat.completion",
        "usage": result["usage"],
        "id": random_id("chatcmpl-"),
    }
    if result.get("timings"):
        answer["timings"] = result["timings"]
    return answer


def _choice(choice: Mapping[str, Any]) -> dict[str, Any]:
    given = choice["message"]
    message: dict[str, Any] = {"role": "assistant", "content": given.get("content") or ""}
    if given.get("reasoning_content"):
        message["reasoning_content"] = given["reasoning_content"]
    if given.get("tool_calls"):
        message["tool_calls"] = given["tool_calls"]
    kept = {"finish_reason": choice["finish_reason"], "index": choice.get("index", 0), "message": message}
    if choice.get("logprobs"):
        kept["logprobs"] = choice["logprobs"]
    return kept


def prompt_progress(event: Mapping[str, Any]) -> dict[str, Any]:
    """llama-server's prompt_progress from a progress event."""
    return {
        "total": event.get("total") or event.get("done") or 0,
        "cache": event.get("cache", 0),
        "processed": event.get("done") or 0,
        "time_ms": event.get("time_ms", 0),
    }


class ChatChunks:
    """The Wire of /v1/chat/completions."""

    def __init__(self, model: str, created: int, *, usage: bool = False, progress: bool = False) -> None:
        self._frame = {
            "created": created,
            "id": random_id("chatcmpl-"),
            "model": model,
            "system_fingerprint": FINGERPRINT,
            "object": "chat.completion.chunk",
        }
        self._usage, self._progress = usage, progress
        self._begun: set[int] = set()
        self._ended: set[int] = set()
        self._held: dict[str, Any] | None = None
        """The last choice's closing chunk: timings belong on the stream's last chunk, and come with the result."""

    def _chunk(self, index: int, delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {"choices": [{"finish_reason": finish, "index": index, "delta": delta}], **self._frame}

    def _begin(self, index: int) -> bytes:
        if index in self._begun:
            return b""
        self._begun.add(index)
        return data(self._chunk(index, {"role": "assistant", "content": None}))

    def event(self, job: int, event: Mapping[str, Any]) -> bytes:
        if event["type"] == "progress":
            if not self._progress or self._begun or "cache" not in event:  # the loop's own events are for `status`
                return b""
            chunk = self._chunk(0, {"role": "assistant", "content": None})
            return data({**chunk, "prompt_progress": prompt_progress(event)})
        if event["type"] != "delta":
            return b""
        index = event.get("index", 0)
        words = self._release() + self._begin(index)
        delta = {k: v for k, v in (event.get("delta") or {}).items() if k != "role"}
        if delta or event.get("logprobs"):
            chunk = self._chunk(index, delta)
            if event.get("logprobs"):
                chunk["choices"][0]["logprobs"] = event["logprobs"]
            if event.get("timings") and "finish_reason" not in event:
                chunk["timings"] = event["timings"]
            words += data(chunk)
        if event.get("finish_reason"):
            self._end(index, event["finish_reason"])
        return words

    def _end(self, index: int, reason: str) -> None:
        self._ended.add(index)
        self._held = self._chunk(index, {}, reason)

    def _release(self) -> bytes:
        held, self._held = self._held, None
        return data(held) if held else b""

    def done(self, job: int, result: Mapping[str, Any]) -> bytes:
        words = b""
        for choice in result["choices"]:
            if (index := choice.get("index", 0)) not in self._ended:
                words += self._release() + self._begin(index)
                self._end(index, choice["finish_reason"])
        last = self._held
        if self._usage:
            words += self._release()
            last = {"choices": [], **self._frame, "usage": result["usage"]}
        self._held = None
        if last and result.get("timings"):
            last["timings"] = result["timings"]
        return words + note_comment(result) + (data(last) if last else b"")

    def close(self) -> bytes:
        return b"data: [DONE]\n\n"

    def error(self, error: BatchError) -> bytes:
        return data(to_openai_error(error))
