"""A form's fields as TranscriptionOptions: the struct's own bounds are the one table of what each may be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import msgspec

from batch.api.http.multipart import FormUpload
from batch.errors import BadRequest
from batch.media import language as languages
from batch.payloads.speech import TranscriptionOptions

RESPONSE_FORMATS = ("json", "text", "srt", "vtt", "verbose_json")

LEAST_TEMPERATURE_STEP = 0.05
"""Smallest `temperature_inc` that is no zero: whisper.cpp decodes once for every step on the way to 1."""

MAX_TRACK_CHARS = 64
"""Characters of `audio_track` that count."""


@dataclass(frozen=True, slots=True)
class NumberField:
    """What a numeric field may be."""

    is_whole: bool
    low: float
    high: float


def _fields() -> tuple[dict[str, NumberField], tuple[str, ...]]:
    """The numeric and the boolean fields of TranscriptionOptions."""
    numbers: dict[str, NumberField] = {}
    booleans: list[str] = []
    described = msgspec.inspect.type_info(TranscriptionOptions)
    assert isinstance(described, msgspec.inspect.StructType)
    for field in described.fields:
        types = field.type.types if isinstance(field.type, msgspec.inspect.UnionType) else (field.type,)
        for kind in types:
            match kind:
                case msgspec.inspect.IntType(ge=low, le=high) | msgspec.inspect.FloatType(ge=low, le=high):
                    whole = isinstance(kind, msgspec.inspect.IntType)
                    numbers[field.name] = NumberField(
                        whole, -math.inf if low is None else low, math.inf if high is None else high
                    )
                case msgspec.inspect.BoolType():
                    booleans.append(field.name)
    return numbers, tuple(booleans)


NUMBERS, BOOLEANS = _fields()


def read_options(upload: FormUpload) -> TranscriptionOptions:
    """The fields that were sent, typed and checked. Raises BadRequest that names the field."""
    fields: dict[str, Any] = {}
    for name, rule in NUMBERS.items():
        if text := (upload.last(name) or "").strip():
            fields[name] = _number(name, text, rule)
    for name in BOOLEANS:
        if (ticked := upload.last(name)) is not None:
            fields[name] = is_true(ticked)
    if "suppress_nst" not in fields and (ticked := upload.last("suppress_non_speech")) is not None:
        fields["suppress_nst"] = is_true(ticked)
    if (prompt := upload.last("prompt")) is not None:
        if "\0" in prompt:
            raise BadRequest('"prompt" must not hold a zero character.', param="prompt")
        fields["prompt"] = prompt
    if (language := upload.last("language")) is not None:
        fields["language"] = read_language(language)
    if track := (upload.last("audio_track") or "").strip()[:MAX_TRACK_CHARS]:
        fields["audio_track"] = track
    return TranscriptionOptions(**fields)


def read_language(text: str) -> str:
    """The tag of a language that Whisper knows. Raises BadRequest for another."""
    tag = languages.tag_of(text)
    if tag is None:
        raise BadRequest(
            f'"language": "{text[:40]}" is not a language that Whisper knows; use a code such as en or zh, or auto.',
            param="language",
        )
    return tag


def read_choice(upload: FormUpload, name: str, allowed: tuple[str, ...], otherwise: str) -> str:
    """A field that may be one of a few words. Raises BadRequest that names them."""
    text = (upload.last(name) or "").strip() or otherwise
    if text not in allowed:
        raise BadRequest(f'"{name}" must be one of {", ".join(allowed)}, not "{text[:40]}".', param=name)
    return text


def is_true(text: str) -> bool:
    """What whisper-server takes for true, and a browser's checkbox."""
    return text.strip().lower() in ("true", "1", "yes", "y", "on")


def option_properties() -> dict[str, Any]:
    """How OpenAPI describes the numeric and boolean fields."""
    fields: dict[str, Any] = {name: {"type": "boolean"} for name in BOOLEANS}
    for name, rule in NUMBERS.items():
        fields[name] = {"type": "integer" if rule.is_whole else "number"}
        if math.isfinite(rule.low):
            fields[name]["minimum"] = rule.low
        if math.isfinite(rule.high):
            fields[name]["maximum"] = rule.high
    return fields


def _number(name: str, text: str, rule: NumberField) -> int | float:
    kind = "a whole number" if rule.is_whole else "a number"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if "_" in text or not math.isfinite(value) or (rule.is_whole and value != int(value)):
        raise BadRequest(f'"{name}" must be {kind}, not "{text[:40]}".', param=name)
    if not rule.low <= value <= rule.high:
        bounds = f"from {rule.low:g} to {rule.high:g}" if math.isfinite(rule.high) else f"at least {rule.low:g}"
        raise BadRequest(f'"{name}" must be {bounds}, not {text[:40]}.', param=name)
    if name == "temperature_inc" and 0 < value < LEAST_TEMPERATURE_STEP:
        step = LEAST_TEMPERATURE_STEP
        raise BadRequest(f'"{name}" must be 0 or from {step:g} to {rule.high:g}, not {text[:40]}.', param=name)
    return int(value) if rule.is_whole else value
