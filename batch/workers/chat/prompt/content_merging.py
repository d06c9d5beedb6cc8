"""Contents in the shapes that templates know: a system's text before a user's, parts as one text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from batch.workers.chat.dialects.template_values import TemplateObject


def merge_system(messages: list[TemplateObject]) -> list[TemplateObject]:
    """For a template that knows no system role: its text goes before that of the message after it."""
    if messages[0]["role"] != "system":
        return messages
    if len(messages) == 1:
        return [{**messages[0], "role": "user"}]
    parts = [p if isinstance(p, list) else [{"type": "text", "text": p}] for p in (m["content"] for m in messages[:2])]
    if all(p["type"] == "text" for p in chain(*parts)):
        merged: Any = "\n".join(p["text"] for p in chain(*parts))
    else:
        merged = [*parts[0], *parts[1]]
        if parts[0] and merged[len(parts[0])]["type"] != "text":
            merged[len(parts[0]) - 1] = {"type": "text", "text": parts[0][-1].get("text", "") + "\n"}
    return [{**messages[1], "content": merged}, *messages[2:]]


def flatten(parts: Sequence[str | None], media: Iterable[str]) -> str:
    """Text parts joined by line feeds, nothing next to media (None)."""
    source = iter(media)
    out: list[str] = []
    after_media = False
    for part in parts:
        if part is None:
            out.append(next(source))
        else:
            out.append(part if after_media or not out else "\n" + part)
        after_media = part is None
    return "".join(out)
