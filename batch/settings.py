"""Settings: one frozen object. Nothing else reads the environment.

Rising precedence: defaults, `batch.toml` in the home folder, `BATCH_*` variables (`BATCH_VLM__PORT=9000`), flags.
"""

from __future__ import annotations

import json
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
    """A path to a Silero VAD model in ggml format; empty: the one that comes with batch; none: cut at low energy."""


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
    caption_temperature: float = Field(0.2, ge=0, le=5)
    """Low, so that the same picture gets about the same words again; a model's own default suits chats."""
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
    body_seconds: float = Field(60.0, gt=0)
    """How long a body may take to arrive, besides one second for every KB of it."""
    header_bytes: int = Field(64 << 10, ge=1024)
    """Largest request headers."""
    header_seconds: float = Field(20.0, gt=0)
    """How long a request's headers may take to arrive."""
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
    """How many days an ended job's row is kept, by origin; 0: for ever. With an inbox job goes what is known of its file,
    once that has left the inbox."""

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

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

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
    log_bytes: int = Field(10 << 20, ge=4096)
    """Size at which .batch/logs/batch.log is put aside for a new one."""
    log_files: int = Field(5, ge=1, le=1000)
    """How many of those are kept."""
    vlm: VlmSettings = VlmSettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
    stt: SttSettings = SttSettings()
    folder: FolderSettings = FolderSettings()
    queue: QueueSettings = QueueSettings()
    limits: LimitSettings = LimitSettings()
    retention: RetentionSettings = RetentionSettings()
    fail_at: str = ""
    """For tests only: the point of batch/fail_points.py at which a process of the service is killed, once."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """`load` merges file, variables and flags itself, because `batch config` must tell each value's source."""
        return (init_settings,)

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

    @classmethod
    def load(cls, home: Path | None = None, flags: dict[str, Any] | None = None) -> Settings:
        """The settings of a home: its batch.toml, then BATCH_* variables, then `flags` (nested like the fields).

        Raises SettingsProblem, with one sentence that names the key and where it stands.
        """
        return cls.trace(home, flags)[0]

    @classmethod
    def trace(cls, home: Path | None = None, flags: dict[str, Any] | None = None) -> tuple[Settings, dict[str, str]]:
        """As `load`; also where each leaf came from: "default", the file, the variable, or the flag, by dotted key."""
        flags = flags or {}
        variables = _variables()
        # Flags come first, as somewhere the home must be known before its file can be read.
        where = Path(home or flags.get("home") or variables.get("home") or ".").expanduser().absolute()
        if not where.is_dir():
            raise SettingsProblem(f"The home folder {where} does not exist: make it, or name another with --home.")
        file = where / "batch.toml"
        written = _read_toml(file)
        merged: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for values, name in (
            (written, lambda key: str(file)),
            (variables, lambda key: "BATCH_" + key.upper().replace(".", "__")),
            (flags, lambda key: "--" + key.replace(".", "-").replace("_", "-")),
        ):
            if _deeper(values, 3):
                raise SettingsProblem(f"{name('A setting')} is not valid: settings are a table of tables, no deeper.")
            _merge(merged, values)
            sources.update({key: name(key) for key in _leaves(values)})
        merged["home"] = where
        try:
            settings = cls(**merged)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            origin = next((s for k, s in sources.items() if k == key or key.startswith(k + ".")), str(file))
            if first["type"] == "extra_forbidden":
                raise SettingsProblem(f"There is no setting {key} ({origin}): see `batch config`.") from None
            raise SettingsProblem(f"The setting {key} ({origin}) is not valid: {first['msg']}.") from None
        return settings, sources

    def leaves(self) -> dict[str, Any]:
        """Every effective value by dotted key."""
        return {key: value for key, value in _leaves(self.model_dump(mode="json")).items() if value or key != "fail_at"}


_NOT_SETTINGS = ("BATCH_LLAMA_SERVER", "BATCH_WHISPER_SERVER")
"""Variables of the benchmarks, which name the peers' programs."""


def _variables() -> dict[str, Any]:
    """BATCH_* variables as nested values; lists and tables may be given as JSON."""
    found: dict[str, Any] = {}
    for name, value in os.environ.items():
        if not name.startswith("BATCH_") or name in _NOT_SETTINGS or value == "":
            continue
        *sections, leaf = name.removeprefix("BATCH_").lower().split("__")
        table = found
        for section in sections:
            table = table.setdefault(section, {})
            if not isinstance(table, dict):
                raise SettingsProblem(f"The variable {name} contradicts another one, which gives {section} a value of its own.")
        try:
            table[leaf] = json.loads(value) if value[0] in "[{" else value
        except (ValueError, RecursionError):
            raise SettingsProblem(f"The variable {name} is not valid JSON.") from None
    return found


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsProblem(f"{file} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsProblem(f"{file} cannot be read as TOML: {' '.join(str(error).split())}.") from None


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, dict) else value


def _deeper(values: dict[str, Any], levels: int) -> bool:
    """Whether tables stand in tables beyond so many levels; without recursion, as a file may hold thousands."""
    level = [values]
    for _ in range(levels):
        level = [value for table in level for value in table.values() if isinstance(value, dict)]
    return bool(level)


def _leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= _leaves(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found
