"""Settings: one frozen object. Nothing else reads the environment.

Rising precedence: defaults, `batch.toml` in the home folder, `BATCH_*` variables (`BATCH_VLM__PORT=9000`), flags.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from batch.errors import SettingsProblem


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSettings(_Section):
    model: str = ""
    """A name in the catalogue, or a path to a model file; empty: the profile's."""
    port: int = Field(0, ge=0, le=65535)
    """Port on 127.0.0.1; 0 takes a free one (batch status names it)."""
    threads: int = Field(0, ge=0, le=1024)
    """Most threads while computing; 0: the machine's cores, shared with the other models as they work."""
    gpu_layers: int = -1
    """Layers on the GPU; -1 all that fit, 0 none. Only GPU builds of the libraries look at it."""


class VlmSettings(ModelSettings):
    port: int = Field(8080, ge=0, le=65535)
    mmproj: str = ""
    """A path to the vision projector; empty: the one the catalogue pairs with the model, if any."""
    context: int = Field(0, ge=0)
    """Tokens of context; 0: the model's own ("unlimited")."""
    cache_bytes: int = Field(1 << 30, ge=0)
    """Host memory for the prompts of recent conversations."""


class EmbeddingSettings(ModelSettings):
    port: int = Field(8081, ge=0, le=65535)


class SttSettings(ModelSettings):
    port: int = Field(8082, ge=0, le=65535)
    vad_model: str = ""
    """A path to a Silero VAD model in ggml format; empty: the catalogue's if fetched, else cuts at low energy."""


class FolderSettings(_Section):
    """What happens to dropped files. A `.batch.toml` in an inbox folder overrides these below that folder."""

    source: Literal["keep", "move", "delete"] = "keep"
    """What becomes of a file once its results are written: it stays, moves to `done`, or is deleted."""
    done: Path = Path("done")
    """Where `move` puts files; relative to the home."""
    settle: float = Field(1.0, ge=0)
    """Seconds a file's size and time must stand still before it is read."""
    scan: float = Field(5.0, gt=0)
    """Seconds between two full scans; events only wake it earlier."""
    caption_prompt: str = "Describe this image."
    caption_max_tokens: int = Field(1024, ge=1)
    caption_thinking: bool = False
    """Whether a thinking model thinks before it captions."""
    language: str = "auto"
    """Language of the sound; auto detects."""
    translate: bool = False
    formats: tuple[Literal["txt", "json", "srt", "vtt"], ...] = ("txt", "json", "srt")
    """Which files a result gets; json is always written, as its presence means done."""
    embed: bool = True
    """Whether captions and transcripts get a vector too."""


class QueueSettings(_Section):
    waiting: int = Field(1000, ge=1)
    """Most callers waiting on one port; one more is told 429 and when to come back."""
    attempts: int = Field(3, ge=1)
    """How often a job may take its worker down before it is failed."""
    grace: float = Field(10.0, ge=0)
    """Seconds a running job has to end after SIGTERM or Ctrl-C before it is put back."""
    hang: float = Field(600.0, ge=0)
    """Seconds a running job may go without reaching a unit before its worker is restarted; 0: for ever."""


class LimitSettings(_Section):
    body_bytes: int = Field(256 << 20, ge=1024)
    """Largest request body."""
    image_bytes: int = Field(64 << 20, ge=1)
    image_pixels: int = Field(100_000_000, ge=1)
    """Largest image, in pixels after decoding."""
    images: int = Field(64, ge=1)
    """Most images in a request."""
    text_bytes: int = Field(16 << 20, ge=1)
    """Largest text file taken from the inbox."""
    origins: tuple[str, ...] = ()
    """Web pages besides this machine's own that may call the ports, as "https://example.org"."""


class RetentionSettings(_Section):
    """How many days an ended job's row is kept, by origin; 0: for ever."""

    http: float = 1.0
    batch: float = 30.0
    inbox: float = 0.0
    cli: float = 30.0


def default_models_dir() -> Path:
    """Where models are kept for all homes of this user."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "batch" / "models"


class Settings(BaseSettings):
    """The effective settings of one home."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="BATCH_", env_nested_delimiter="__", env_ignore_empty=True
    )

    home: Path = Path(".")
    """Folder that holds inbox/, outbox/, batch.toml and .batch/ (database, spool, sockets, logs)."""
    profile: Literal["default", "starter"] = "default"
    """default: Gemma 4 E4B, bge-base-zh, Whisper. starter: small real models from the package registry; its vision
    model knows coloured shapes only."""
    inbox: Path = Path("inbox")
    outbox: Path = Path("outbox")
    """Both relative to the home."""
    models_dir: Path = Field(default_factory=default_models_dir)
    """Where fetched models lie."""
    hub: str = ""
    """Address of a Hugging Face mirror; empty: the hub's own, or HF_ENDPOINT."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    vlm: VlmSettings = VlmSettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
    stt: SttSettings = SttSettings()
    folder: FolderSettings = FolderSettings()
    queue: QueueSettings = QueueSettings()
    limits: LimitSettings = LimitSettings()
    retention: RetentionSettings = RetentionSettings()

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *, init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource, **_: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags arrive as the init argument `flags`, the file's content as `toml`: see `load`."""
        return (init_settings, env_settings)

    @property
    def state_dir(self) -> Path:
        return self.home / ".batch"

    @property
    def database(self) -> Path:
        return self.state_dir / "batch.db"

    @property
    def inbox_dir(self) -> Path:
        return self.home / self.inbox

    @property
    def outbox_dir(self) -> Path:
        return self.home / self.outbox
