"""Models besides the three of the profile: `[models.NAME]` in batch.toml, each with a queue and a worker process of its own."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from batch.model_kind import MAX_MODEL_NAME_CHARS
from batch.settings.keys import EmbeddingSettings, KeepAlive, SttSettings, VlmSettings
from batch.settings.value_types import PathOrName

MAX_MODELS = 64
UNLOADED_AFTER_S = 600.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_model_name(name: str) -> str:
    """The name of a model; ValueError where it would not do as a part of a file's name."""
    if len(name) > MAX_MODEL_NAME_CHARS or not _NAME.fullmatch(name):
        raise ValueError(
            f"a model's name has at most {MAX_MODEL_NAME_CHARS} letters, digits, dots, dashes and underscores, the first "
            "no dot or dash"
        )
    return name


ModelName = Annotated[str, AfterValidator(check_model_name)]


class NamedVlmSettings(VlmSettings):
    """A further model that chats and sees."""

    kind: Literal["vlm"]
    """What the model does: vlm (chat and vision), embedding, or stt (speech to text)."""
    model: PathOrName
    """A name in the catalogue, or a path to a model file."""
    keep_alive: KeepAlive = UNLOADED_AFTER_S
    """How long the model stays loaded without a job, as 10m, 1h or seconds; 0: it is unloaded at once; -1: it is loaded at
    start and stays."""


class NamedEmbeddingSettings(EmbeddingSettings):
    """A further model that turns texts into vectors."""

    kind: Literal["embedding"]
    model: PathOrName
    keep_alive: KeepAlive = UNLOADED_AFTER_S


class NamedSttSettings(SttSettings):
    """A further model that writes down speech."""

    kind: Literal["stt"]
    model: PathOrName
    keep_alive: KeepAlive = UNLOADED_AFTER_S


def _kind(value: Any) -> str | None:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return kind if isinstance(kind, str) else None


NamedModelSettings = Annotated[
    Annotated[NamedVlmSettings, Tag("vlm")]
    | Annotated[NamedEmbeddingSettings, Tag("embedding")]
    | Annotated[NamedSttSettings, Tag("stt")],
    Discriminator(
        _kind,
        custom_error_type="value_error",
        custom_error_context={"error": "it names no kind, or one that there is not"},
    ),
]
NamedModels = Annotated[dict[ModelName, NamedModelSettings], Field(max_length=MAX_MODELS)]
NAMED_MODELS: dict[str, type[NamedVlmSettings | NamedEmbeddingSettings | NamedSttSettings]] = {
    "vlm": NamedVlmSettings,
    "embedding": NamedEmbeddingSettings,
    "stt": NamedSttSettings,
}
"""The settings of a further model by its kind."""
