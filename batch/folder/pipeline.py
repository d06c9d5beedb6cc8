"""The steps a file goes through: what is asked about it first, and what each result leads to.

image: caption, then embedding; sound of audio and video: transcript, then embedding; text: embedding in windows; a document
of pictures: its pages one by one, then embedding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import msgspec

from batch.errors import BatchError
from batch.folder.ledger.rows import (
    CaptionParameters,
    ContentParameters,
    PageParameters,
    TextParameters,
    TranscriptParameters,
)
from batch.media.kind import MediaKind
from batch.payloads.chat import ChatPayload, ChatResult, GenerationParams, ImagePart, Message, TextPart
from batch.payloads.embedding import EmbeddingPayload, EmbeddingResult
from batch.payloads.job_payload import Payload, Result
from batch.payloads.speech import TranscriptionOptions, TranscriptionPayload, TranscriptionResult
from batch.queue.jobs import Draft, Job, Kind, Origin, Priority
from batch.settings import FolderSettings, Settings

CAPTION, TRANSCRIPT, EMBEDDING, BATCH = "caption", "transcript", "embedding", "batch"
_PAGE = "page "
PAGE_GAP = "\n\n"
"""Between the texts of two pages."""
_INLINE_CHARS = 2048
"""Longest text that stands in the job's row; longer ones go to the spool."""

PutInSpool = Callable[[bytes], str]
"""Keeps bytes in the spool and returns their sha256."""


class NoCaption(BatchError):
    """The model gave no caption."""


def content_parameters(kind: MediaKind, settings: FolderSettings) -> ContentParameters:
    """What, besides its bytes, a file's result depends on; stands in the outbox's JSON."""
    match kind:
        case MediaKind.IMAGE:
            return CaptionParameters(
                prompt=settings.caption_prompt,
                max_tokens=settings.caption_max_tokens,
                temperature=settings.caption_temperature,
                thinking=settings.caption_thinking,
                embed=settings.embed,
            )
        case MediaKind.AUDIO | MediaKind.VIDEO:
            return TranscriptParameters(language=settings.language, translate=settings.translate, embed=settings.embed)
        case MediaKind.TEXT | MediaKind.DOCUMENT | MediaKind.UNKNOWN:
            return TextParameters()


def content_key(sha256: str, kind: MediaKind, parameters: ContentParameters, settings: Settings) -> str:
    """Equal keys, equal results: the bytes, what is asked, and the models that are configured to answer."""
    models = [settings.profile, *(settings.model_of(model).model for model in Kind)]
    question = json.dumps([kind, msgspec.to_builtins(parameters), models], sort_keys=True)
    return f"{sha256}:{hashlib.sha256(question.encode()).hexdigest()[:16]}"


def caption_draft(blob: str, parameters: CaptionParameters, source: str) -> Draft:
    """The job that captions an image whose bytes lie in the spool."""
    payload = ChatPayload(
        messages=[Message(role="user", content=[ImagePart(blob=blob), TextPart(text=parameters.prompt)])],
        generation=GenerationParams(max_tokens=parameters.max_tokens, temperature=parameters.temperature),
        enable_thinking=parameters.thinking,
    )
    return _draft(payload, (blob,), source)


def page_draft(blob: str, parameters: PageParameters, source: str, parent: str | None = None) -> Draft:
    """The job that writes down a page, whose picture lies in the spool."""
    payload = ChatPayload(
        messages=[Message(role="user", content=[ImagePart(blob=blob), TextPart(text=parameters.page_prompt)])],
        generation=GenerationParams(max_tokens=parameters.max_tokens, temperature=parameters.temperature),
        enable_thinking=False,
    )
    return _draft(payload, (blob,), source, parent)


def page_step(number: int) -> str:
    """The step for a page, counted from 0; people count from 1."""
    return f"{_PAGE}{number + 1}"


def page_of(step: str) -> int | None:
    """The page of a step, counted from 0; None for steps of another kind."""
    return int(step.removeprefix(_PAGE)) - 1 if step.startswith(_PAGE) else None


def page_text(result: Result) -> str:
    """What a page says; a page without any text is none's fault."""
    try:
        return text_of(result)
    except NoCaption:
        return ""


def transcript_draft(blob: str, parameters: TranscriptParameters, source: str) -> Draft:
    """The job that transcribes the sound of a file whose bytes lie in the spool; subtitles follow its words' times."""
    payload = TranscriptionPayload(
        blob=blob,
        filename=source.rpartition("/")[2],
        options=TranscriptionOptions(language=parameters.language, translate=parameters.translate),
        words=True,
    )
    return _draft(payload, (blob,), source)


def embedding_draft(text: str, put_in_spool: PutInSpool, source: str, parent: str | None = None) -> Draft:
    """The job that embeds a text in windows."""
    if len(text) <= _INLINE_CHARS:
        return _draft(EmbeddingPayload(inputs=[text], windows=True), (), source, parent)
    blob = put_in_spool(json.dumps([text], ensure_ascii=False).encode())
    return _draft(EmbeddingPayload(blob=blob, windows=True), (blob,), source, parent)


def result_of(job: Job) -> Result:
    """A done job's result. Raises BatchError where its row holds none that can be read."""
    if job.result is None:
        raise BatchError(f"Job {job.id} has no result.")
    return job.result


def text_of(result: Result) -> str:
    """The caption or transcript in a result; raises NoCaption for a caption that is none."""
    match result:
        case ChatResult():
            message = result.choices[0].message if result.choices else None
            text = (message.content or "").strip() if message else ""
            if not text:
                reason = f": {result.note}; a larger caption_max_tokens may help." if result.note else "."
                raise NoCaption(f"The model gave no caption{reason}")
            return text
        case TranscriptionResult():
            if result.segments:
                return "".join(segment.text.rstrip("\n") for segment in result.segments).strip()
            return " ".join(result.text.split("\n")).strip()
        case EmbeddingResult():
            return ""


def _draft(payload: Payload, blobs: tuple[str, ...], source: str, parent: str | None = None) -> Draft:
    return Draft(
        payload=payload,
        origin=Origin.INBOX,
        priority=Priority.INBOX,
        blobs=blobs,
        source=source,
        parent=parent,
    )
