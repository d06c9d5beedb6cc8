"""The kinds of model: each has a port, a queue and a worker process of its own."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """Which model a job needs."""

    VLM = "vlm"
    """Vision-language chat and completion (llama.cpp)."""
    EMBEDDING = "embedding"
    """Text embeddings (llama.cpp)."""
    STT = "stt"
    """Speech to text (whisper.cpp)."""
