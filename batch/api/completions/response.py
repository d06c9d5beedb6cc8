"""Text completions as replies and streams: OpenAI's text_completion and llama-server's own lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from batch.api.chat_completions.response import prompt_progress
from batch.api.errors import to_openai_error
from batch.api.generation.jobs import FINGERPRINT, note_comment
from batch.api.jobs.event_stream import data
from batch.api.jobs.submit import random_id
from batch.errors import BatchError


def summed(usages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One usage for several jobs."""
    total: dict[str, Any] = {}
    for usage in usages:
        for key, value in usage.items():
            if isinstance(value, Mapping):
                total[key] = summed([total.get(key, {}), value])
            else:
                total[key] = total.get(key, 0) + value
    return total


def text_completion(results: Sequence[Mapping[str, Any]], model: str, created: int) -> dict[str, Any]:
    """The whole answer to /v1/completions, one result a prompt."""
    choices: list[dict[str, Any]] = []
    for result in results:
        for choice in result["choices"]:
            choices.append(
                {
                    "text": choice.get("text") or "",
                    "index": len(choices),
                    "logprobs": choice.get("logprobs") or None,
                    "finish_reason": choice["finish_reason"],
                }
            )
    answer: dict[str, Any] = {
        "choices": choices,
        "created": created,
        "model": model,
        "system_fingerprint": FINGERPRINT,
        "object": "text_completion",
        "usage": summed([result["usage"] for result in results]),
        "id": random_id("chatcmpl-"),
    }
    if timings := results[-1].get("timings"):
        answer["timings"] = timings
    return answer


class TextChunks:
    """The Wire of /v1/completions."""

    def __init__(self, model: str, created: int, prompts: int, each: int, *, progress: bool = False) -> None:
        self._frame = {
            "created": created,
            "model": model,
            "system_fingerprint": FINGERPRINT,
            "object": "text_completion",
            "id": random_id("chatcmpl-"),
        }
        self._prompts, self._each, self._progress = prompts, each, progress
        self._begun = False
        self._usages: list[Mapping[str, Any]] = []

    def _chunk(self, index: int, text: str, logprobs: Any = None, finish: str | None = None) -> dict[str, Any]:
        choice = {"text": text, "index": index, "logprobs": logprobs or None, "finish_reason": finish}
        return {"choices": [choice], **self._frame}

    def event(self, job: int, event: Mapping[str, Any]) -> bytes:
        if event["type"] == "progress" and "cache" in event and self._progress and not self._begun:
            return data({**self._chunk(job * self._each, ""), "prompt_progress": prompt_progress(event)})
        if event["type"] != "delta":
            return b""
        self._begun = True
        text, logprobs = (event.get("delta") or {}).get("text") or "", event.get("logprobs")
        if not text and not logprobs:
            return b""
        chunk = self._chunk(job * self._each + event.get("index", 0), text, logprobs)
        if event.get("timings") and "finish_reason" not in event:
            chunk["timings"] = event["timings"]
        return data(chunk)

    def done(self, job: int, result: Mapping[str, Any]) -> bytes:
        """llama-server closes a text stream with a chunk that carries usage and timings whether asked or not."""
        self._usages.append(result["usage"])
        last = len(self._usages) == self._prompts
        words = note_comment(result)
        for at, choice in enumerate(result["choices"]):
            chunk = self._chunk(job * self._each + choice.get("index", at), "", None, choice["finish_reason"])
            if last and at == len(result["choices"]) - 1:
                chunk["usage"] = summed(self._usages)
                if result.get("timings"):
                    chunk["timings"] = result["timings"]
            words += data(chunk)
        return words

    def close(self) -> bytes:
        return b"data: [DONE]\n\n"

    def error(self, error: BatchError) -> bytes:
        return data(to_openai_error(error))


def native(
    choice: Mapping[str, Any],
    result: Mapping[str, Any],
    model: str,
    settings: Mapping[str, Any],
    *,
    tokens: bool = False,
    streamed: bool = False,
) -> dict[str, Any]:
    """One completion in llama-server's own shape; the last line of a stream has its text behind it already."""
    text, timings, usage = choice.get("text") or "", result.get("timings") or {}, result["usage"]
    word = choice.get("stopping_word") or ""
    kind = choice.get("stop_type") or ("limit" if choice["finish_reason"] == "length" else "word" if word else "eos")
    answer = {
        "index": choice.get("index", 0),
        "content": "" if streamed else text,
        "tokens": list(choice.get("tokens") or []) if tokens else [],
        "id_slot": 0,
        "stop": True,
        "model": model,
        "tokens_predicted": timings.get("predicted_n", usage["completion_tokens"]),
        "tokens_evaluated": usage["prompt_tokens"],
        "generation_settings": dict(settings),
        "prompt": result.get("prompt") or "",
        "has_new_line": "\n" in text,
        "truncated": False,
        "stop_type": kind,
        "stopping_word": word,
        "tokens_cached": max(0, usage["prompt_tokens"] + usage["completion_tokens"] - 1),
        "timings": timings,
    }
    if not streamed and (probabilities := (choice.get("logprobs") or {}).get("content")):
        answer["completion_probabilities"] = probabilities
    return answer


def picked(answer: dict[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """Only these fields, where a caller names some; "generation_settings/top_k" reaches into an object."""
    found: dict[str, Any] = {}
    for path in fields:
        value: Any = answer
        for key in path.split("/"):
            value = value.get(key, ...) if isinstance(value, dict) else ...
        if value is not ...:
            found[path] = value
    return found if fields else answer


class NativeLines:
    """The Wire of /completion; it has no closing [DONE]."""

    def __init__(
        self,
        model: str,
        settings: Callable[[], Mapping[str, Any]],
        prompts: int,
        *,
        progress: bool,
        fields: Sequence[str] = (),
    ) -> None:
        """`settings`: what gives the generation_settings, asked once a prompt has its answer."""
        self._model, self._settings, self._prompts, self._progress = model, settings, prompts, progress
        self._fields = fields
        self._evaluated = 0
        self._predicted = 0

    def _line(self, job: int, text: str, event: Mapping[str, Any]) -> dict[str, Any]:
        index = job if self._prompts > 1 else event.get("index", 0)
        return {
            "index": index,
            "content": text,
            "tokens": list(event.get("tokens") or []),
            "stop": False,
            "id_slot": 0,
            "tokens_predicted": self._predicted,
            "tokens_evaluated": self._evaluated,
        }

    def event(self, job: int, event: Mapping[str, Any]) -> bytes:
        if event["type"] == "prompt":
            self._evaluated = event["tokens"]
        if event["type"] == "progress" and "cache" in event and self._progress and not self._predicted:
            return data({**self._line(job, "", event), "prompt_progress": prompt_progress(event)})
        text = (event.get("delta") or {}).get("text") or "" if event["type"] == "delta" else ""
        if not text and not event.get("logprobs"):
            return b""
        self._predicted += len(event.get("tokens", [0]))  # an echo has none
        line = self._line(job, text, event)
        if event.get("timings") and "finish_reason" not in event:
            line["timings"] = event["timings"]
        if event.get("logprobs"):
            line["completion_probabilities"] = event["logprobs"]["content"]
        return data(line)

    def done(self, job: int, result: Mapping[str, Any]) -> bytes:
        words = note_comment(result)
        self._predicted = 0
        for at, choice in enumerate(result["choices"]):
            given = {**choice, "index": job if self._prompts > 1 else choice.get("index", at)}
            answer = native(given, result, self._model, self._settings(), streamed=True)
            words += data(picked(answer, self._fields))
        return words

    def close(self) -> bytes:
        return b""

    def error(self, error: BatchError) -> bytes:
        return data(to_openai_error(error))
