"""What a caller has been sent of an answer, so that a job that starts again goes on where the caller stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from batch.errors import WorkerDied

_TEXTS = ("reasoning_content", "content", "text")


class Replay:
    """Follows one job's deltas. After a worker died the job runs again from its beginning: what was sent already is
    held back as long as it is the same (greedy or seeded sampling), and the stream ends in an error where it is not.
    """

    def __init__(self) -> None:
        self._sent: dict[tuple[Any, ...], list[str]] = {}
        """In pieces: adding to one long text would copy it at every token."""
        self._length: dict[tuple[Any, ...], int] = {}
        self._seen: dict[tuple[Any, ...], int] = {}
        self._again = False

    def restart(self) -> None:
        """The job was taken by a worker, for the first time or once more."""
        self._again = bool(self._sent)
        self._seen = {}

    def fresh(self, event: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The event without what was sent before; None when nothing of it is left."""
        if event["type"] == "segment":
            known = (key := ("segment", event["segment"].get("id"))) in self._sent
            self._sent[key] = []
            return None if known else event
        if event["type"] != "delta":
            return event
        index, delta = event.get("index", 0), event.get("delta") or {}
        kept: dict[str, Any] = {k: v for k, v in delta.items() if k not in _TEXTS and k != "tool_calls"}
        for field in _TEXTS:
            if (text := delta.get(field)) and (rest := self._rest((index, field), text)):
                kept[field] = rest
        calls = []
        for call in delta.get("tool_calls") or []:
            function = call.get("function") or {}
            at = call.get("index", 0)
            head = self._rest((index, at, "name"), function["name"]) if function.get("name") else ""
            arguments = self._rest((index, at, "arguments"), function["arguments"]) if function.get("arguments") else ""
            if head or arguments or not self._again:
                spelled = {k: v for k, v in (("name", head), ("arguments", arguments)) if v or k in function}
                calls.append({**call, "function": spelled} if head else {"index": at, "function": spelled})
        if calls:
            kept["tool_calls"] = calls
        if self._again and not kept and "finish_reason" not in event:
            return None
        return {**event, "delta": kept}

    def _rest(self, key: tuple[Any, ...], text: str) -> str:
        seen, length = self._seen.get(key, 0), self._length.get(key, 0)
        self._seen[key] = seen + len(text)
        known = self._text(key)[seen : seen + len(text)] if seen < length else ""
        if not text.startswith(known):
            raise WorkerDied(
                "The worker process died in the middle of this answer, and the second attempt went another way: "
                "send the request again."
            )
        rest = text[len(known) :]
        self._sent.setdefault(key, []).append(rest)
        self._length[key] = length + len(rest)
        return rest

    def _text(self, key: tuple[Any, ...]) -> str:
        pieces = self._sent.get(key, [])
        if len(pieces) > 1:
            pieces[:] = ["".join(pieces)]
        return pieces[0] if pieces else ""

    def missing(self, result: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Deltas for what the result holds beyond what was sent: nobody listened, or an event was lost."""
        usage = result.get("usage") or {}
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        prompt = {"tokens": usage.get("prompt_tokens", 0), "cached": cached}
        for choice in result.get("choices") or []:
            index = choice.get("index", 0)
            message = choice.get("message") or choice
            delta: dict[str, Any] = {}
            given = choice.get("given") or {}
            for field in _TEXTS:
                whole = (message.get(field) or "")[given.get(field, 0) :]
                sent = self._text((index, field))
                if len(whole) > len(sent) and whole.startswith(sent):
                    delta[field] = whole[len(sent) :]
            calls = []
            for at, call in enumerate(message.get("tool_calls") or []):
                function = call["function"]
                arguments = self._text((index, at, "arguments"))
                if (index, at, "name") not in self._sent:
                    calls.append({"index": at, "id": call.get("id"), "type": "function", "function": dict(function)})
                elif len(function["arguments"]) > len(arguments) and function["arguments"].startswith(arguments):
                    rest = function["arguments"][len(arguments) :]
                    calls.append({"index": at, "function": {"arguments": rest}})
            if calls:
                delta["tool_calls"] = calls
            if delta:
                yield {"type": "delta", "index": index, "delta": delta, "prompt": prompt}
