"""The tables of batch.toml: every key with its default, its bounds and its meaning.

`docs/settings.md` and `batch config --help KEY` show the sentence below each key, so it is written for people.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from batch.settings.listen_address import ListenAddress, PublicAddress
from batch.settings.parallel import MAX_PARALLEL, check_parallel
from batch.settings.patterns import check_host_pattern, check_origin_pattern, check_webhook
from batch.settings.value_types import PathOrName, Section, UserPath, read_duration

MAX_FILE_BYTES = 1 << 40
MAX_WAIT_S = 7 * 86400.0
MAX_KEPT_DAYS = 36500.0
DAY_S = 86_400

Text = Annotated[str, Field(max_length=10_000)]
HostPattern = Annotated[str, Field(max_length=1000), AfterValidator(check_host_pattern), "host names"]
OriginPattern = Annotated[str, Field(max_length=1000), AfterValidator(check_origin_pattern), "addresses of web pages"]
WebhookUrl = Annotated[str, Field(max_length=2000), AfterValidator(check_webhook), "addresses of receivers"]
Argument = Annotated[str, Field(max_length=4096), "arguments of a command"]
Parallel = Annotated[Literal["auto"] | int, PlainValidator(check_parallel), f"auto or a whole number from 1 to {MAX_PARALLEL}"]
KeepAlive = Annotated[float, BeforeValidator(read_duration), Field(ge=-1, le=MAX_WAIT_S), "a duration as 10m, seconds, or -1"]
Port = Annotated[int, Field(ge=0, le=65535)]


class ModelSettings(Section):
    """What the three models have in common."""

    model: PathOrName = ""
    """A name in the catalogue, or a path to a model file; empty: the profile's. none: `batch worker` on other machines does
    the work, which takes a database that they share."""
    port: Port = 0
    """Port on 127.0.0.1; 0 takes a free one (`batch status` names it)."""
    threads: int = Field(0, ge=0, le=1024)
    """Most threads while computing; 0: the machine's cores, shared with other models and programs as they work."""
    gpu_layers: int = Field(-1, ge=-1, le=10_000)
    """Layers on the GPU; -1 all that fit, 0 none. Only GPU builds of the libraries look at it."""
    keep_alive: KeepAlive = -1.0
    """How long the model stays loaded without a job, as 10m, 1h or seconds; 0: it is unloaded at once; -1: it is loaded at
    start and stays."""


class VlmSettings(ModelSettings):
    """The model that chats and sees."""

    port: Port = 8080
    mmproj: PathOrName = ""
    """A path to the vision projector; empty: the one the catalogue pairs with the model, if any."""
    context: int = Field(0, ge=0, le=100_000_000)
    """Tokens of context; 0: the model's own ("unlimited")."""
    cache_bytes: int = Field(1 << 30, ge=0, le=MAX_FILE_BYTES)
    """Host memory for the prompts of recent conversations; a quarter of it where memory is short."""
    kv_cache: Literal["auto", "f16", "q8_0"] = "auto"
    """How the context's keys and values are kept: f16, or q8_0 in about half the memory, a little slower and less exact;
    auto: f16 where there is memory for it."""
    repack: Literal["auto", "on", "off"] = "auto"
    """Whether weights are copied into the order that this processor computes fastest with, at the cost of their size in
    memory; off: they stay in the mapped file; auto: on where there is memory for it. Not on a GPU."""
    parallel: Parallel = "auto"
    """How many bulk jobs (captions, batch lines) are computed together; auto: as measured; 1: one after the other."""
    thinking: Literal["auto", "on", "off"] = "auto"
    """Whether a model that can think does so where a request does not say; auto: as its chat template has it."""
    thinking_budget: int = Field(-1, ge=-1, le=2**31 - 1)
    """Most tokens of thinking where a request does not say; -1: no limit."""


class EmbeddingSettings(ModelSettings):
    """The model that turns texts into vectors."""

    port: Port = 8081
    query_prefix: Annotated[str, Field(max_length=1000)] = "auto"
    """What goes before a question to search with ("input_type": "query"); auto: what the catalogue knows of the model."""


class SttSettings(ModelSettings):
    """The model that writes down speech."""

    port: Port = 8082
    vad_model: PathOrName = ""
    """A path to a Silero VAD model in ggml format; empty: the one that comes with batch; none: cut at low energy."""
    parallel: Parallel = "auto"
    """How many bulk jobs (sound files, batch lines) are heard beside each other, each with a copy of the model; auto: 2 where
    there are two cores and the memory; 1: one after the other."""


MAX_PATTERN_CHARS = 200
MAX_PATTERN_STARS = 2
"""Stars between two slashes of a pattern, and double stars in it: more would cost minutes on a name made for that."""


def check_ignore_pattern(pattern: str) -> str:
    """The pattern; ValueError where it is none, or may take too long to match."""
    from pathspec import GitIgnoreSpec

    if len(pattern) > MAX_PATTERN_CHARS:
        raise ValueError(f"the pattern {pattern[:20]!r}… has more than {MAX_PATTERN_CHARS} characters")
    parts = pattern.split("/")
    stars = max(part.count("*") for part in parts if part != "**") if any(part != "**" for part in parts) else 0
    if stars > MAX_PATTERN_STARS or parts.count("**") > MAX_PATTERN_STARS:
        raise ValueError(f"the pattern {pattern!r} has more than {MAX_PATTERN_STARS} stars between two slashes")
    try:
        GitIgnoreSpec.from_lines([pattern])
    except (ValueError, re.error) as error:
        raise ValueError(f"the pattern {pattern!r} is none ({error})") from None
    return pattern


IgnorePattern = Annotated[str, AfterValidator(check_ignore_pattern)]

SourceFate = Literal["keep", "move", "delete"]


class FolderSettings(Section):
    """What happens to dropped files. A `.batch.toml` in an inbox folder overrides these below that folder."""

    source: SourceFate = "keep"
    """What becomes of a file once its results are written: it stays, moves to `done`, or is deleted."""
    done: UserPath = Path("done")
    """Where `move` puts files; relative to the home. In a folder's `.batch.toml`: below the home's own done folder."""
    settle: float = Field(1.0, ge=0, le=86400)
    """Seconds a file's size and time must stand still before it is read."""
    settle_unsure: float = Field(10.0, ge=0, le=86400)
    """The same where the system cannot say whether a program still has the file open: other users' files, network shares,
    macOS."""
    scan: float = Field(5.0, ge=0.01, le=86400)
    """Seconds between two full scans; events only wake it earlier."""
    ignore: tuple[IgnorePattern, ...] = Field((), max_length=100)
    """Files to pass over, as in a .gitignore: "*.tmp.jpg", "raw/", "!raw/keep/"; on top of what nobody drops (downloads under
    way, thumbnails, recycle bins). The patterns nearest to a file decide."""
    caption_prompt: Text = "Describe this image."
    """What the model is asked about each picture."""
    caption_max_tokens: int = Field(1024, ge=1, le=1_000_000)
    """Longest caption, in tokens."""
    caption_temperature: float = Field(0.2, ge=0, le=5)
    """Low, so that the same picture gets about the same words again; a model's own default suits chats."""
    page_prompt: Text = "Write down all text on this page as it stands there. Describe pictures and tables in words."
    """What the model is asked about each page of a PDF whose pages are pictures."""
    caption_thinking: bool = False
    """Whether a thinking model thinks before it captions."""
    language: str = Field("auto", max_length=64)
    """Language of the sound, as a name or a code; auto detects it."""
    translate: bool = False
    """Whether sound in other languages is written down in English."""
    formats: tuple[Literal["txt", "json", "srt", "vtt"], ...] = ("txt", "json", "srt")
    """Which files a result gets; json is always written, as its presence means done."""
    embed: bool = True
    """Whether captions and transcripts get a vector too."""


Access = Literal["owner", "group", "all"]


class OutboxSettings(Section):
    """The results. `outbox = "PATH"` is short for `path` here."""

    path: UserPath = Path("outbox")
    """Folder that results appear in; relative to the home, and neither inside the inbox nor around it."""
    access: Access = "owner"
    """Who may read new results and the folders made for them: owner (the service's user), group or all. What the umask
    says does not count."""
    again: bool = True
    """Whether results that are missing from the outbox at start are written again for files that still lie in the inbox;
    false: what was delivered once counts as collected."""


class QueueSettings(Section):
    """How long jobs wait, run, and are tried."""

    waiting: int = Field(1000, ge=1, le=1_000_000)
    """Most clients waiting on one port; one more gets status 429 and the time to come back."""
    attempts: int = Field(3, ge=1, le=10_000)
    """How often a job may take its worker down before it is failed."""
    grace: float = Field(10.0, ge=0, le=86400)
    """Seconds a running job has to end after SIGTERM or Ctrl-C before it is put back."""
    hang: float = Field(600.0, ge=0, le=MAX_WAIT_S)
    """Seconds a running job may go without reaching a yield point before its worker is restarted; 0: for ever."""
    backup_hours: float = Field(1.0, ge=0, le=8760)
    """Hours between two copies of the database in .batch/backup, from which `batch repair` fills gaps; 0: no copies."""
    backup_bytes: int = Field(256 << 20, ge=0, le=1 << 44)
    """Largest database, in bytes, that is copied by itself; `batch backup` copies any."""


class LimitSettings(Section):
    """The most that one request or one file may take."""

    body_bytes: int = Field(256 << 20, ge=1024, le=MAX_FILE_BYTES)
    """Largest request body."""
    body_seconds: float = Field(60.0, ge=0.01, le=MAX_WAIT_S)
    """How long a body may take to arrive, besides one second for every KB of it."""
    header_bytes: int = Field(64 << 10, ge=1024, le=64 << 20)
    """Largest request headers."""
    header_seconds: float = Field(20.0, ge=0.01, le=MAX_WAIT_S)
    """How long a request's headers may take to arrive."""
    image_bytes: int = Field(64 << 20, ge=1, le=MAX_FILE_BYTES)
    """Largest image, as it is sent or lies in the inbox."""
    image_pixels: int = Field(100_000_000, ge=1, le=10_000_000_000)
    """Largest image, in pixels after decoding."""
    images: int = Field(64, ge=1, le=100_000)
    """Most images in a request."""
    text_bytes: int = Field(16 << 20, ge=1, le=MAX_FILE_BYTES)
    """Largest text file taken from the inbox, and the most text of a chat or completion request besides its pictures."""
    hosts: tuple[HostPattern, ...] = ()
    """Names besides localhost by which this machine may be asked, as "host.docker.internal"; a star stands for any part."""
    document_bytes: int = Field(256 << 20, ge=1, le=MAX_FILE_BYTES)
    """Largest PDF or Word document taken from the inbox."""
    document_pages: int = Field(500, ge=1, le=100_000)
    """Most pages of a PDF taken from the inbox."""
    origins: tuple[OriginPattern, ...] = ()
    """Web pages besides this machine's own that may call the ports, as "https://example.org"; a star stands for any part,
    as in "vscode-webview://*"."""


class FileSettings(Section):
    """Files that clients upload, and batches made of them."""

    max_bytes: int = Field(512 << 20, ge=1, le=MAX_FILE_BYTES)
    """Largest file that may be uploaded."""
    batch_bytes: int = Field(200 << 20, ge=1, le=MAX_FILE_BYTES)
    """Largest input of a batch."""
    upload_bytes: int = Field(8 << 30, ge=1, le=MAX_FILE_BYTES)
    """Largest file that may be uploaded in parts."""
    total_bytes: int = Field(0, ge=0, le=MAX_FILE_BYTES)
    """Most bytes that all files may take together; 0: as many as the disk holds."""
    batch_days: float = Field(30.0, ge=0, le=MAX_KEPT_DAYS)
    """Days that a batch's input file is kept unless its client says otherwise; 0: until it is deleted."""
    enforce_window: bool = False
    """Whether a batch whose completion_window is over ends as expired; local hardware may need longer."""


class PageSettings(Section):
    """The page for people at the address of the chat model's port."""

    enabled: bool = True
    """Whether there is a page."""
    preview_bytes: int = Field(512 << 20, ge=0, le=MAX_FILE_BYTES)
    """Most bytes that small pictures for the page may take in .batch/previews."""


class NotificationSettings(Section):
    """Who is told, by signed webhooks, that batches, background responses and dropped files have ended."""

    urls: tuple[WebhookUrl, ...] = ()
    """Addresses that every event is sent to; none by default. Each one's signing secret lies in .batch/webhooks/."""
    hosts: tuple[HostPattern, ...] = ()
    """Names or addresses besides this machine's own that webhooks may be sent to; a star stands for any part."""


class FrontSettings(Section):
    """A service whose jobs are done by workers of other machines, which share its database."""

    listen: ListenAddress = ""
    """Address of this machine, as host:port, at which those workers may dial it, so that words of running jobs need not go
    through the database; encrypted, and for workers of this database alone. Empty: no such port. The HTTP ports stay on
    127.0.0.1 in any case."""
    advertise: PublicAddress = ""
    """Where workers reach it, as host:port, when that is another address than `listen`; needed where that is 0.0.0.0 or ::."""


class RetentionSettings(Section):
    """How many days an ended job's row is kept, by origin; 0: for ever. With an inbox job goes what is known of its file,
    once that has left the inbox."""

    http: float = Field(1.0, ge=0, le=MAX_KEPT_DAYS)
    """Days that requests and their results are kept; as long, an Idempotency-Key is remembered."""
    batch: float = Field(30.0, ge=0, le=MAX_KEPT_DAYS)
    """Days that batch lines are kept."""
    inbox: float = Field(0.0, ge=0, le=MAX_KEPT_DAYS)
    """Days that dropped files' jobs are kept."""
    cli: float = Field(30.0, ge=0, le=MAX_KEPT_DAYS)
    """Days that jobs of `batch submit` are kept."""
    responses: float = Field(30.0, ge=0, le=MAX_KEPT_DAYS)
    """Days that stored responses and chat completions are kept after their last use."""
    responses_bytes: int = Field(4 << 30, ge=0, le=MAX_FILE_BYTES)
    """Most bytes that they may take in the database; beyond it the ones used longest ago go. 0: as many as the disk holds."""
    notifications: float = Field(7.0, ge=0, le=MAX_KEPT_DAYS)
    """Days that it is kept which events were told to whom."""

    @property
    def responses_s(self) -> int | None:
        """Seconds that a stored response is kept after its last use; None: for ever."""
        return round(self.responses * DAY_S) if self.responses else None


class McpSettings(Section):
    """The tools that agents get by the Model Context Protocol; needs the package's extra `mcp`."""

    http: bool = False
    """Whether the chat model's port serves them at /mcp; `batch mcp` serves them in any case."""
    actions: bool = False
    """Whether an agent may also retry and cancel jobs."""
