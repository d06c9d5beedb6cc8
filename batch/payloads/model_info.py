"""What a worker knows of its model once it is loaded: /props, /v1/models and `batch status` are made from it."""

from __future__ import annotations

import msgspec

from batch.payloads.sampling import SamplingParams


class ModelInfo(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Facts that every engine gives; sizes in tokens unless they say otherwise."""

    model: str
    """Its name in the catalogue, or its file's."""
    path: str = ""
    size: int = 0
    """Bytes of the weights."""
    n_ctx: int = 0
    n_ctx_train: int = 0
    n_vocab: int = 0
    n_params: int = 0
    n_embd: int = 0
    """Width of a hidden state, and of an embedding."""
    vision: bool = False
    note: str = ""
    """A sentence about what was done to save memory; empty where nothing was."""


class ChatModelInfo(ModelInfo, frozen=True, omit_defaults=True, kw_only=True, tag="vlm", tag_field="kind"):
    """A chat model."""

    mmproj: str | None = None
    """Path of the vision projector."""
    vocab_type: int = 0
    ftype: str = ""
    """llama.cpp's description: architecture, size, quantisation."""
    chat: bool = False
    """Whether the file holds a chat template."""
    dialect: str = ""
    chat_template: str = ""
    bos_token: str = ""
    eos_token: str = ""
    sampling: SamplingParams = SamplingParams()
    """Defaults of this model, every field set."""
    build: str = ""
    """llama.cpp's system info."""
    gpu: bool = False
    parallel: int = 1
    """How many bulk jobs are computed together."""
    parallel_rates: dict[str, float] = {}
    """Tokens a second by number of jobs, as measured at load."""
    kv_cache: str = "f16"
    """How the context's keys and values are kept."""
    repacked: bool = True
    """Whether weights are copied into the processor's order."""


class EmbeddingModelInfo(ModelInfo, frozen=True, omit_defaults=True, kw_only=True, tag="embedding", tag_field="kind"):
    """An embedding model."""

    pooling: str = ""
    matryoshka: bool = False
    """Whether leading dimensions are vectors of their own."""
    batch_tokens: int = 0
    """Tokens decoded together, as measured at load."""
    batch_rates: dict[str, float] = {}
    """Tokens a second by tokens decoded together."""
    scripts: list[str] = []
    """Whose words its vocabulary holds, as `batch.media.scripts` names them; empty where that is not known."""
    usual_similarity: float = 0.0
    """The cosine that unrelated texts seldom reach, as measured at load; 0 where that is not known."""


class SpeechModelInfo(ModelInfo, frozen=True, omit_defaults=True, kw_only=True, tag="stt", tag_field="kind"):
    """A Whisper model."""

    type: str = ""
    """whisper.cpp's size name: "base", "large v3"."""
    multilingual: bool = False
    languages: list[str] = []
    vad: str | None = None
    """Path of the voice activity detection model."""


AnyModelInfo = ChatModelInfo | EmbeddingModelInfo | SpeechModelInfo
