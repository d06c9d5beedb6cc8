"""Which engine serves which kind. Model libraries are imported here and below, in worker processes only."""

from __future__ import annotations

import importlib

from batch.queue.jobs import Kind
from batch.settings import Settings
from batch.workers.engine import Engine

WEIGHTLESS = "weightless"
"""A model "name" that asks for the engine without weights, for tests of the path."""


NATIVE_LIBRARIES = {Kind.VLM: "llama_cpp.llama_cpp", Kind.EMBEDDING: "llama_cpp.llama_cpp", Kind.STT: "_pywhispercpp"}
"""The module that loads the library with which a kind's engine computes."""


def load_native_library(kind: Kind, settings: Settings) -> None:
    """Load the library that the engine of `kind` computes with, before any other compiled module.

    A CUDA build of ggml can carry a C++ runtime of its own, and crashes where numpy, PyAV or pillow-heif loaded theirs first.
    """
    if settings.model_of(kind).model != WEIGHTLESS:
        importlib.import_module(NATIVE_LIBRARIES[kind])


def build(kind: Kind, settings: Settings) -> Engine:
    if settings.model_of(kind).model == WEIGHTLESS:
        from batch.workers.fake_engine import WeightlessEngine

        return WeightlessEngine(kind)
    match kind:
        case Kind.VLM:
            from batch.workers.chat.engine import VlmEngine

            return VlmEngine(settings)
        case Kind.EMBEDDING:
            from batch.workers.embedding.engine import EmbeddingEngine

            return EmbeddingEngine(settings)
        case Kind.STT:
            from batch.workers.speech.engine import SpeechEngine

            return SpeechEngine(settings)
