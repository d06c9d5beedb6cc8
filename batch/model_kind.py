"""The kinds of model, and the queues of models: each model has a queue and a worker process of its own."""

from __future__ import annotations

import re
from enum import StrEnum


class Kind(StrEnum):
    """Which model a job needs."""

    VLM = "vlm"
    """Vision-language chat and completion (llama.cpp)."""
    EMBEDDING = "embedding"
    """Text embeddings (llama.cpp)."""
    STT = "stt"
    """Speech to text (whisper.cpp)."""


MAX_MODEL_NAME_CHARS = 64
_SEPARATOR = ":"
_QUEUE = re.compile(rf"({'|'.join(Kind)})(:[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_MODEL_NAME_CHARS - 1}}})?")


def queue_of(kind: Kind, model: str) -> str:
    """The queue of a kind's model by the name that the settings give it; empty: the kind's own model.

    `vlm` is the queue of a kind's own model, `vlm:NAME` that of `[models.NAME]`. A Kind is the name of its own queue, so it may
    stand wherever a queue is named.
    """
    return f"{kind}{_SEPARATOR}{model}" if model else kind


def kind_of(queue: str) -> Kind:
    """What kind of model a queue is for."""
    return Kind(queue.partition(_SEPARATOR)[0])


def is_queue(text: str) -> bool:
    """Whether a text from elsewhere may be the name of a queue, and of a file."""
    return _QUEUE.fullmatch(text) is not None


def model_of(queue: str) -> str:
    """The name that the settings give a queue's model; empty: the kind's own."""
    return queue.partition(_SEPARATOR)[2]
