"""The chain: what is asked about a file first, and what its answer leads to.

image: caption, then embedding; sound of audio and video: transcript, then embedding; text: embedding in windows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from batch.errors import BatchError
from batch.media.kind import MediaKind
from batch.queue.jobs import Draft, Kind, Origin, Priority
from batch.settings import FolderSettings, Settings

CAPTION, TRANSCRIPT, EMBEDDING = "caption", "transcript", "embedding"
MODELS = {CAPTION: Kind.VLM, TRANSCRIPT: Kind.STT, EMBEDDING: Kind.EMBEDDING}
"""Which model a step needs."""
_INLINE = 2048
"""Longest text, in characters, that stands in the job's row; longer ones go to the spool."""

Keep = Callable[[bytes], str]


class NothingSaid(BatchError):
    """The model gave no caption."""


def parameters(kind: MediaKind, rules: FolderSettings, settings: Settings) -> dict[str, Any]:
    """What, besides its bytes, a file's result depends on; stands in the outbox's JSON."""
    found: dict[str, Any] = {}
    match kind:
        case MediaKind.IMAGE:
            found = {
                "prompt": rules.caption_prompt,
                "max_tokens": rules.caption_max_tokens,
                "temperature": rules.caption_temperature,
                "thinking": rules.caption_thinking,
                "embed": rules.embed,
            }
        case MediaKind.AUDIO | MediaKind.VIDEO:
            found = {"language": rules.language, "translate": rules.translate, "embed": rules.embed}
        case MediaKind.TEXT | MediaKind.UNKNOWN:
            pass
    return found


def key(sha256: str, kind: MediaKind, parameters: Mapping[str, Any], settings: Settings) -> str:
    """Same key, same result: the bytes, what is asked, and the models that are configured to answer."""
    models = [settings.profile, *(getattr(settings, model).model for model in Kind)]
    asked = json.dumps([kind, parameters, models], sort_keys=True)
    return f"{sha256}:{hashlib.sha256(asked.encode()).hexdigest()[:16]}"


def first(kind: MediaKind, blob: str, asked: Mapping[str, Any], source: str) -> tuple[str, Draft]:
    """The first step for an image or for sound whose bytes lie in the spool."""
    if kind is MediaKind.IMAGE:
        content = [{"type": "image", "blob": blob}, {"type": "text", "text": asked["prompt"]}]
        request: dict[str, Any] = {
            "messages": [{"role": "user", "content": content}],
            "generation": {"max_tokens": asked["max_tokens"], "temperature": asked["temperature"]},
            "enable_thinking": asked["thinking"],
        }
        return CAPTION, _draft(Kind.VLM, "chat", request, (blob,), source)
    options = {"language": asked["language"], "translate": asked["translate"]}
    # words: subtitles follow their times
    request = {"blob": blob, "filename": source.rpartition("/")[2], "options": options, "words": True}
    return TRANSCRIPT, _draft(Kind.STT, "transcribe", request, (blob,), source)


def embedding(text: str, keep: Keep, source: str, parent: str | None = None) -> Draft:
    """The job that embeds a text in windows; `keep` puts bytes in the spool."""
    if len(text) <= _INLINE:
        return _draft(Kind.EMBEDDING, "embed", {"inputs": [text], "windows": True}, (), source, parent)
    blob = keep(json.dumps([text], ensure_ascii=False).encode())
    return _draft(Kind.EMBEDDING, "embed", {"blob": blob, "windows": True}, (blob,), source, parent)


def text_of(step: str, result: Mapping[str, Any]) -> str:
    """The caption or transcript in a step's result; raises NothingSaid for a caption that is none."""
    if step == CAPTION:
        message = result["choices"][0]["message"]
        text = str(message.get("content") or "").strip()
        if not text:
            note = result.get("note")
            reason = f": {note}; a larger caption_max_tokens may help." if note else "."
            raise NothingSaid(f"The model gave no caption{reason}")
        return text
    if segments := result.get("segments"):
        return "".join(str(segment["text"]).rstrip("\n") for segment in segments).strip()
    return " ".join(str(result.get("text", "")).split("\n")).strip()


def _draft(
    kind: Kind, task: str, request: Mapping[str, Any], blobs: tuple[str, ...], source: str, parent: str | None = None
) -> Draft:
    return Draft(
        kind=kind,
        task=task,
        request=request,
        origin=Origin.INBOX,
        priority=Priority.INBOX,
        blobs=blobs,
        source=source,
        parent=parent,
    )
