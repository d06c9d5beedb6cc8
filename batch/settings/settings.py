"""The effective settings of one home.

Rising precedence: defaults, `batch.toml` in the home folder, `BATCH_*` variables (`BATCH_VLM__PORT=9000`), flags.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationError

from batch.database_address import (
    FILE,
    IN_DATABASE,
    check_address,
    check_payload_place,
    remembered_address,
    without_password,
)
from batch.errors import SettingsProblem
from batch.model_kind import Kind, kind_of, model_of, queue_of
from batch.settings.keys import (
    MAX_FILE_BYTES,
    Argument,
    EmbeddingSettings,
    FileSettings,
    FolderSettings,
    FrontSettings,
    LimitSettings,
    McpSettings,
    ModelSettings,
    NotificationSettings,
    OutboxSettings,
    PageSettings,
    QueueSettings,
    RetentionSettings,
    SttSettings,
    VlmSettings,
)
from batch.settings.listen_address import is_everywhere
from batch.settings.named_models import NamedModels
from batch.settings.sources import (
    Table,
    flag_of,
    flatten,
    is_too_deep,
    merge,
    read_toml,
    read_variables,
    spell_out,
    variable_of,
)
from batch.settings.value_types import Section, UserPath, check_text

HIDDEN_KEYS = ("fail_at",)
"""Keys for tests, which people are not shown."""


def default_models_dir() -> Path:
    """Where models are kept for all homes of this user."""
    cache = os.environ.get("XDG_CACHE_HOME") or ""
    if os.path.isabs(cache):  # a relative one counts as none, says the standard
        return Path(cache) / "batch" / "models"
    try:
        return Path.home() / ".cache" / "batch" / "models"
    except RuntimeError:
        raise SettingsProblem("This user has no home folder to keep models in: set HOME or models_dir.") from None


class Settings(Section):
    """The effective settings of one home; made by `load`."""

    home: UserPath = Path(".")
    """Folder that holds inbox/, outbox/, batch.toml and .batch/ (database, spool, sockets, logs); set by --home or
    BATCH_HOME only."""
    profile: Literal["default", "starter"] = "default"
    """default: Gemma 4 E4B, bge-base-zh, Whisper. starter: small real models from the package registry; its vision
    model knows coloured shapes only."""
    inbox: UserPath = Path("inbox")
    """Folder that files are dropped into; relative to the home."""
    models_dir: UserPath = Field(default_factory=default_models_dir)
    """Where fetched models lie, for all homes of this user; relative to the home."""
    hub: str = Field("", max_length=2000)
    """Address of a Hugging Face mirror; empty: the hub's own, or HF_ENDPOINT."""
    database: Annotated[str, Field(max_length=2000), AfterValidator(check_address), "postgresql://USER@HOST/NAME"] = ""
    """Where jobs are kept: empty: a SQLite file in .batch; the address of a PostgreSQL database: there, for several
    machines."""
    listen_database: Annotated[str, Field(max_length=2000), AfterValidator(check_address), "postgresql://USER@HOST/NAME"] = ""
    """Where notifications are heard, past a pooler in front of `database`; empty: there too. A pooler that shares connections
    by the transaction needs `pooler=transaction` in `database` as well."""
    payloads: Annotated[str, Field(max_length=1000), AfterValidator(check_payload_place), "postgres or s3://BUCKET/PREFIX"] = (
        IN_DATABASE
    )
    """Where the bytes of jobs go that several machines share: postgres: into the database; the address of a bucket that speaks
    S3: there, with endpoint, region and credentials from the variables AWS_*. Those of a SQLite home lie in .batch."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important lines that the log keeps."""
    log_bytes: int = Field(10 << 20, ge=4096, le=MAX_FILE_BYTES)
    """Size at which .batch/logs/batch.log is put aside for a new one."""
    log_files: int = Field(5, ge=1, le=1000)
    """How many of those are kept."""
    vlm: VlmSettings = VlmSettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
    stt: SttSettings = SttSettings()
    models: NamedModels = Field(default_factory=dict)
    """Further models by name."""
    folder: FolderSettings = FolderSettings()
    outbox: OutboxSettings = OutboxSettings()
    queue: QueueSettings = QueueSettings()
    front: FrontSettings = FrontSettings()
    limits: LimitSettings = LimitSettings()
    files: FileSettings = FileSettings()
    page: PageSettings = PageSettings()
    retention: RetentionSettings = RetentionSettings()
    mcp: McpSettings = McpSettings()
    notifications: NotificationSettings = NotificationSettings()
    on_event: tuple[Argument, ...] = ()
    """A command, as a list of its arguments, that is run for every event, with the event as JSON on its standard input."""
    fail_at: str = Field("", max_length=1000)
    """For tests only: the point of batch/fail_points.py at which a process of the service is killed, once."""

    def model_of(self, kind: Kind) -> ModelSettings:
        """The settings of a kind's model."""
        match kind:
            case Kind.VLM:
                return self.vlm
            case Kind.EMBEDDING:
                return self.embedding
            case Kind.STT:
                return self.stt

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues of all models, those of the profile first."""
        return (*Kind, *(queue_of(Kind(model.kind), name) for name, model in self.models.items()))

    def section_of(self, queue: str) -> ModelSettings:
        """The settings of a queue's model."""
        name = model_of(queue)
        return self.models[name] if name else self.model_of(kind_of(queue))

    def for_queue(self, queue: str) -> Self:
        """What the worker of a queue is started with: its model's settings stand where those of the kind's own model do."""
        name, kind = model_of(queue), kind_of(queue)
        if name not in self.models:  # the kind's own, or settings that were made for this queue
            return self
        values = self.models[name].model_dump(exclude={"kind"})
        return self.model_copy(update={kind.value: type(self.model_of(kind)).model_validate(values), "models": {}})

    @property
    def state_dir(self) -> Path:
        """The folder of the database, the spool, the sockets and the logs."""
        return self.home / ".batch"

    @property
    def backup(self) -> Path:
        """The newest automatic copy of the database."""
        return self.state_dir / "backup" / "batch.db"

    @property
    def database_file(self) -> Path:
        """Where SQLite keeps jobs, unless `database` names another place."""
        return self.state_dir / "batch.db"

    @property
    def database_address(self) -> Path | str:
        """What `open_store` takes: the file, or the address."""
        return self.database_file if self.database in ("", FILE) else self.database

    @property
    def inbox_dir(self) -> Path:
        return self.home / self.inbox

    @property
    def outbox_dir(self) -> Path:
        return self.home / self.outbox.path

    @property
    def done_dir(self) -> Path:
        """Where `folder.source = "move"` puts files."""
        return self.home / self.folder.done

    @classmethod
    def load(cls, home: Path | None = None, flags: Table | None = None) -> Self:
        """The settings of a home: its batch.toml, then BATCH_* variables, then `flags` (nested like the fields).

        Raises SettingsProblem, with one sentence that names the key and where it stands.
        """
        return cls.trace(home, flags)[0]

    @classmethod
    def trace(cls, home: Path | None = None, flags: Table | None = None) -> tuple[Self, dict[str, str]]:
        """As `load`; also where each leaf came from, by dotted key: the file, the variable, or the flag."""
        flags = flags or {}
        variables = read_variables()
        # Flags come first, as somewhere the home must be known before its file can be read.
        where = _home_folder(home or flags.get("home") or variables.get("home") or ".")
        file = where / "batch.toml"
        file_values = read_toml(file)
        if "home" in file_values:
            raise SettingsProblem(f"{file} cannot set home, as it lies in the home: use --home or BATCH_HOME.")
        merged: Table = {}
        sources: dict[str, str] = {}
        address = remembered_address(where / ".batch")
        remembered: Table = {"database": address} if address else {}
        for values, name in (
            (remembered, lambda key: "batch serve --database"),
            (file_values, lambda key: str(file)),
            (variables, variable_of),
            (flags, flag_of),
        ):
            if is_too_deep(values):
                raise SettingsProblem(f"{name('A setting')} is not valid: settings are a table of tables, no deeper.")
            values = spell_out(values)
            merge(merged, values)
            sources.update({key: name(key) for key in flatten(values)})
        merged["home"] = str(where)
        try:
            settings = cls.model_validate(merged)
        except ValidationError as error:
            raise _problem(error, sources, str(file)) from None
        for model_name, model in settings.models.items():
            if "port" in model.model_fields_set:
                raise SettingsProblem(
                    f"The setting models.{model_name}.port cannot be set: the model answers at its kind's port."
                )
        settings = settings.model_copy(update={"models_dir": where / settings.models_dir})
        _refuse_overlap(settings)
        if is_everywhere(settings.front.listen) and not settings.front.advertise:
            raise SettingsProblem(
                f"The setting front.listen ({sources['front.listen']}) means all addresses of this machine, of which workers "
                "cannot know one: set front.advertise to the host:port that they dial, or front.listen to that."
            )
        if settings.payloads != IN_DATABASE and isinstance(settings.database_address, Path):
            raise SettingsProblem(
                "The setting payloads names a bucket, but the jobs are in a SQLite file, which no other machine sees: set "
                "database to an address of PostgreSQL, or leave payloads out."
            )
        return settings, sources

    def leaves(self) -> Table:
        """Every effective value by dotted key."""
        leaves = flatten(self.model_dump(mode="json"))
        for key in ("database", "listen_database"):
            leaves[key] = without_password(str(leaves[key]))
        return {key: value for key, value in leaves.items() if value or key not in HIDDEN_KEYS}


def _home_folder(text: object) -> Path:
    """The folder that a home's name stands for, absolute; raises SettingsProblem."""
    try:
        check_text(str(text))
        where = Path(str(text)).expanduser().absolute()
        check_text(str(where))
    except FileNotFoundError:
        raise SettingsProblem("The current folder is gone: change into another, or name a home with --home.") from None
    except (RuntimeError, ValueError) as error:
        printable = str(text).encode("utf-8", "backslashreplace").decode()
        raise SettingsProblem(f"The home folder {printable!r} cannot be used ({error}): name another with --home.") from None
    try:
        mode = where.stat().st_mode
    except OSError as error:
        reason = "does not exist: make it" if isinstance(error, FileNotFoundError) else f"cannot be used ({error.strerror})"
        raise SettingsProblem(f"The home folder {str(where)[:300]} {reason}, or name another with --home.") from None
    if not stat.S_ISDIR(mode):
        raise SettingsProblem(f"The home {where} is not a folder: name another with --home.")
    return where


def _problem(error: ValidationError, sources: dict[str, str], file: str) -> SettingsProblem:
    """The first fault of a validation in one sentence: the key, where it stands, and what it takes."""
    from batch.settings.reference import describe_values

    first = error.errors(include_url=False)[0]
    key = _key(first["loc"])
    origin = next((s for k, s in sources.items() if k == key or k.startswith(key + ".") or key.startswith(k + ".")), file)
    if first["type"] == "extra_forbidden":
        return SettingsProblem(f"There is no setting {key} ({origin}): see `batch config`.")
    if first["type"] == "missing":
        return SettingsProblem(f"The setting {key} is missing ({origin}): it must be {describe_values(key)}.")
    reason = str(first["ctx"]["error"]) if first["type"] == "value_error" else f"it is {_describe(first['input'])}"
    return SettingsProblem(f"The setting {key} ({origin}) is not valid: {reason}, and must be {describe_values(key)}.")


def _key(location: Sequence[int | str]) -> str:
    """The dotted key of a validation's place, without what names the kind of a model."""
    parts = [str(part) for part in location if isinstance(part, str) and part != "[key]"]
    return ".".join(parts[:2] + parts[3:] if parts[0] == "models" else parts)


def _describe(value: object) -> str:
    """A value as people may see it in a sentence: short, and without control characters."""
    try:
        text = str(value) if isinstance(value, (int, float, str)) else type(value).__name__
    except ValueError:  # an integer of thousands of digits
        text = "a huge number"
    text = "".join(char if char.isprintable() else "?" for char in text[:60])
    return text or "empty"


def _refuse_overlap(settings: Settings) -> None:
    """Results or finished files that land in the inbox would be taken in again, for ever; and who may drop files must not
    get at the settings and the queue."""
    inbox, outbox, done, home = (
        Path(os.path.realpath(path)) for path in (settings.inbox_dir, settings.outbox_dir, settings.done_dir, settings.home)
    )
    if _is_same(inbox, outbox) or inbox.is_relative_to(outbox) or outbox.is_relative_to(inbox):
        raise SettingsProblem(
            f"The inbox {settings.inbox_dir} and the outbox {settings.outbox_dir} are one folder, or one lies inside the "
            "other: results would be taken in again for ever. Set inbox or outbox to another folder."
        )
    if _is_same(inbox, done) or inbox.is_relative_to(done):
        raise SettingsProblem(
            f"The inbox {settings.inbox_dir} is the folder for finished files {settings.done_dir}, or lies inside it: they "
            "would be taken in again for ever. Set folder.done to another folder."
        )
    if _is_same(done, outbox) or done.is_relative_to(outbox) or outbox.is_relative_to(done):
        raise SettingsProblem(
            f"The outbox {settings.outbox_dir} and the folder for finished files {settings.done_dir} are one folder, or one "
            "lies inside the other: files and results could not be told apart. Set folder.done to another folder."
        )
    if _is_same(inbox, home) or home.is_relative_to(inbox):
        raise SettingsProblem(
            f"The inbox {settings.inbox_dir} is the home folder or lies around it: who drops files could change the settings. "
            "Set inbox to a folder inside the home, or elsewhere."
        )


def _is_same(one: Path, other: Path) -> bool:
    """Whether two paths lead to one folder, under whatever names; False where one is still to be made."""
    try:
        return one.samefile(other)
    except OSError:
        return one == other
