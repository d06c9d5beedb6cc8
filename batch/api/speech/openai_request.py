"""OpenAI's fields of a transcription, checked: from a form, or from the JSON of a batch's line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec

from batch.api.http.multipart import FormUpload
from batch.api.speech.request import RESPONSE_FORMATS, read_choice, read_language, read_options
from batch.errors import BadRequest, NotSupported
from batch.media import language as languages
from batch.payloads.speech import TranscriptionOptions

GRANULARITIES = "timestamp_granularities"
_SPEAKER_FIELDS = ("known_speaker_names", "known_speaker_references")
_KEYWORDS_CHARS = 4096
"""Characters of all keywords together; of a prompt's end only some hundred count."""


@dataclass(frozen=True, slots=True)
class TranscriptionRequest:
    """What a client wants of a file, and in which form."""

    response_format: str
    options: TranscriptionOptions
    granularities: set[str]
    logprobs: bool

    @property
    def words(self) -> bool:
        """Whether the answer needs the times of words: subtitles end at them."""
        return "word" in self.granularities or self.response_format in ("srt", "vtt")


def read_transcription(upload: FormUpload, *, translate: bool) -> TranscriptionRequest:
    """The fields of an upload. Raises BadRequest and NotSupported that name the field."""
    response_format = read_choice(upload, "response_format", RESPONSE_FORMATS, "json")
    options = _options(upload, translate=translate)
    granularities = _granularities(upload, response_format)
    logprobs = _wants_logprobs(upload, response_format)
    for name in _SPEAKER_FIELDS:
        if _values(upload, name):
            raise NotSupported(f'Speakers are not told apart here: leave "{name}" out.', param=name)
    return TranscriptionRequest(response_format, options, granularities, logprobs)


def _options(upload: FormUpload, *, translate: bool) -> TranscriptionOptions:
    """OpenAI's fields as options; whisper-server's further ones play no part on these routes."""
    fields = read_options(upload)
    candidates = [read_language(value) for value in _values(upload, "languages") if value.strip()]
    options = TranscriptionOptions(
        language=fields.language or (candidates[0] if len(candidates) == 1 else "auto"),
        candidate_languages=[] if len(candidates) == 1 else [languages.normalise(tag) or tag for tag in candidates],
        audio_track=fields.audio_track,
        prompt=_prompt(upload, fields.prompt),
        temperature=fields.temperature,
        translate=translate,
        no_language_probabilities=True,
    )
    return _with_chunking(upload, options)


def _prompt(upload: FormUpload, prompt: str | None) -> str | None:
    """The prompt behind the keywords, which lean the decoder to their spelling as a prompt does."""
    keywords = ", ".join(word.strip() for word in _values(upload, "keywords") if word.strip())[:_KEYWORDS_CHARS]
    if "\0" in keywords:
        raise BadRequest('"keywords" must not hold a zero character.', param="keywords")
    return f"{keywords}. {prompt or ''}".strip() if keywords else prompt


def _with_chunking(upload: FormUpload, options: TranscriptionOptions) -> TranscriptionOptions:
    """`chunking_strategy` as voice activity detection: auto, or an object of type server_vad."""
    name = "chunking_strategy"
    text = (upload.last(name) or "").strip()
    strategy: dict[str, Any] = {
        field[len(name) + 1 : -1]: values[-1]
        for field, values in upload.fields.items()
        if field.startswith(f"{name}[") and field.endswith("]")
    }
    if text and text != "auto":
        try:
            strategy = json.loads(text)
        except (ValueError, RecursionError):
            strategy = {}
    elif not text and not strategy:
        return options
    if text != "auto" and (not isinstance(strategy, dict) or strategy.get("type") != "server_vad"):
        raise BadRequest(f'"{name}" must be "auto" or an object of type "server_vad".', param=name)
    spellings = {
        "threshold": "vad_threshold",
        "silence_duration_ms": "vad_min_silence_duration_ms",
        "prefix_padding_ms": "vad_speech_pad_ms",
    }
    # Through the form's own reader, so that each number meets the same bounds.
    form = FormUpload({spelled: [str(strategy[field])] for field, spelled in spellings.items() if field in strategy})
    try:
        tuned = read_options(form)
    except BadRequest as error:
        raise BadRequest(f'"{name}" is not valid: {error.message}', param=name) from None
    return msgspec.structs.replace(
        options,
        vad=True,
        vad_threshold=tuned.vad_threshold,
        vad_min_silence_duration_ms=tuned.vad_min_silence_duration_ms,
        vad_speech_pad_ms=tuned.vad_speech_pad_ms,
    )


def _granularities(upload: FormUpload, form: str) -> set[str]:
    granularities = {value.strip() for value in _values(upload, GRANULARITIES)} - {""}
    if unknown := granularities - {"word", "segment"}:
        raise BadRequest(f'"{GRANULARITIES}" may hold word and segment, not "{min(unknown)[:40]}".', param=GRANULARITIES)
    if "word" in granularities and form != "verbose_json":
        raise BadRequest(f'"{GRANULARITIES}" with word needs "response_format": "verbose_json".', param=GRANULARITIES)
    return granularities or {"segment"}


def _wants_logprobs(upload: FormUpload, form: str) -> bool:
    included = {value.strip() for value in _values(upload, "include")} - {""}
    if unknown := included - {"logprobs"}:
        raise BadRequest(f'"include" may hold logprobs, not "{min(unknown)[:40]}".', param="include")
    if included and form != "json":
        raise BadRequest('"include" with logprobs needs "response_format": "json".', param="include")
    return bool(included)


def _values(upload: FormUpload, name: str) -> list[str]:
    """All values of a field that may stand more than once, with or without brackets behind its name."""
    return [*upload.fields.get(name, []), *upload.fields.get(f"{name}[]", [])]
