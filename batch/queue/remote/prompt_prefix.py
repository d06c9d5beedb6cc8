"""By which machines know of one another's prompts: hashes of the places where a prompt's turns end."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct

from batch.payloads.chat import ChatPayload, ImagePart, Message
from batch.payloads.job_payload import Payload
from batch.payloads.json_text import decode, encode

MAX_HELD_PREFIXES = 128
"""So many a worker reports, those of the latest prompts."""
_MAX_PREFIXES_A_PROMPT = 8
"""Of those the first, which many prompts share, and the last, on which the next turn follows."""
_DIGEST_BYTES = 8
_PICTURE_BYTES = 1024
"""What a picture counts for: it takes as many tokens as a text of about this size."""


class PromptPrefix(NamedTuple):
    """What two prompts may begin with: system and tools, or those and the first turns."""

    digest: str
    """Hex; equal ones are of equal beginnings."""
    size: int
    """Bytes of text, as which pictures count too: about in proportion to its tokens."""


class HeldPrefixes(Struct, frozen=True):
    """Which prefixes a worker's prompt cache holds, as its row in the database says."""

    ms_per_kib: float = 0.0
    """Milliseconds that a KiB of prompt takes to compute; 0: not known yet."""
    digests: list[str] = []
    """Those of the latest prompts first."""


def prefixes_of(payload: Payload) -> list[PromptPrefix]:
    """The prefixes of a chat's prompt, each longer than the one before, the last all of it; none for other payloads."""
    if not isinstance(payload, ChatPayload):
        return []
    head = encode([payload.callable_tools, payload.enable_thinking, payload.chat_template_kwargs])
    running, size = hashlib.blake2b(head, digest_size=_DIGEST_BYTES), len(head)
    prefixes: list[PromptPrefix] = []
    for place, message in enumerate(payload.messages):
        text = encode(message)
        running.update(text)
        size += len(text) + _PICTURE_BYTES * _pictures(message)
        following = payload.messages[place + 1 : place + 2]
        if not (following and following[0].role in ("system", "developer")):
            prefixes.append(PromptPrefix(running.hexdigest(), size))
    return prefixes


def ends_of(prefixes: Sequence[PromptPrefix]) -> list[str]:
    """The digests of a prompt that are worth remembering: its first, and its last ones, the last of all first."""
    chosen = [*prefixes[:1], *prefixes[1:][1 - _MAX_PREFIXES_A_PROMPT :]]
    return [prefix.digest for prefix in reversed(chosen)]


def read_held(text: str) -> HeldPrefixes:
    """What a worker's row says; nothing where it is written by another version, or holds more than a worker reports."""
    try:
        held = decode(text.encode(), HeldPrefixes)
    except ValueError:
        return HeldPrefixes()
    return held if len(held.digests) <= MAX_HELD_PREFIXES else HeldPrefixes()


def _pictures(message: Message) -> int:
    return sum(isinstance(part, ImagePart) for part in message.content) if isinstance(message.content, list) else 0
