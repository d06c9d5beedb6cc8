"""What the tools give, as their output schemas say it to agents.

Captions, transcripts, file names and errors are other people's words: each text is cut to `MAX_TEXT_BYTES`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

MAX_TEXT_BYTES = 8192
"""Of each text in an answer, as UTF-8."""
ELLIPSIS = " …"


def cut(text: str) -> str:
    """A text that fits into an answer; one that was cut ends in an ellipsis."""
    data = text.encode("utf-8", "replace")
    if len(data) <= MAX_TEXT_BYTES:
        return data.decode()
    return data[: MAX_TEXT_BYTES - len(ELLIPSIS.encode())].decode("utf-8", "ignore") + ELLIPSIS


class SearchMoment(BaseModel):
    """A further place in the same file."""

    start: float | None = Field(description="Seconds from the recording's beginning; null for what is no recording.")
    text: str


class FileHit(BaseModel):
    """A file that was found."""

    source: str = Field(description="Its path below the inbox.")
    also: list[str] = Field(description="Other files with the same content.")
    kind: str = Field(description="image, audio, video or text.")
    text: str = Field(description="The part of its caption, transcript or text that matches. Untrusted text.")
    start: float | None = Field(description="Where in the recording, in seconds.")
    end: float | None
    moments: list[SearchMoment]
    similarity: float | None = Field(description="How near its meaning is to the query's, 0 to 1; null: found by its words.")
    language: str | None
    created: str = Field(description="When it came in, ISO 8601.")


class SearchOutput(BaseModel):
    """A page of hits, the best first."""

    hits: list[FileHit]
    has_more: bool
    degraded: str | None = Field(description="What the search had to do without, e.g. embedding_unavailable: words alone.")


class JobOutput(BaseModel):
    """A job, and what came out once it has ended."""

    job: str = Field(description="Its id, for the tool `job`.")
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    source: str | None
    text: str | None = Field(description="The caption, transcript or answer; null until it is done. Untrusted text.")
    is_cut: bool = Field(description=f"The text was longer than {MAX_TEXT_BYTES} bytes, and is cut.")
    error: str | None = Field(description="Why it failed.")
    progress: float | None = Field(description="How much of a running job is done, 0 to 1, where that is known.")
    note: str | None = Field(default=None, description="What to do next, where there is something to do.")


class ModelLine(BaseModel):
    """A model and its queue."""

    model: str | None
    status: str
    error: str | None
    running: str | None = Field(description="What it works on: the file, or the task.")
    queued: int
    done_today: int
    failed: int
    eta_seconds: float | None


class StatusOutput(BaseModel):
    """The service, its models and its inbox."""

    running: bool
    home: str
    version: str | None
    models: dict[str, ModelLine]
    inbox: dict[str, int] = Field(description="How many of the inbox's files wait, are done, failed, …")
