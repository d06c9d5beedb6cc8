"""POST /inference as whisper.cpp's server speaks it, and its /load."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response

from batch.api.http.multipart import Upload, read_upload
from batch.api.jobs.disconnect import cancel_on_disconnect
from batch.api.jobs.submit import submit
from batch.errors import BadRequest, NotSupported, Unavailable
from batch.media import language as languages
from batch.media.length import likely_seconds
from batch.media.subtitles import as_srt, as_vtt
from batch.payloads.untyped import to_payload
from batch.queue.jobs import Draft, Kind, Origin, Priority
from batch.queue.untyped_hub import facts, result_dict

router = APIRouter()

FORMATS = ("json", "text", "srt", "vtt", "verbose_json")

LARGE = 60.0
"""Seconds of sound above which short clips go first."""

WRAP = 60
"""Characters at which whisper-server wraps segments when the answer has token times and max_len is not given."""


class Number(NamedTuple):
    kind: type[int] | type[float]
    low: float
    high: float
    step: float = 0.0
    """Smallest value that is no zero."""


_INT = 2**31 - 1
NUMBERS: Mapping[str, Number] = {
    "temperature": Number(float, 0.0, 1.0),
    "temperature_inc": Number(float, 0.0, 1.0, 0.05),  # whisper.cpp decodes once for every step on the way to 1
    "offset_t": Number(int, 0, _INT),
    "offset_n": Number(int, 0, _INT),
    "duration": Number(int, 0, _INT),
    "max_len": Number(int, 0, _INT),
    "best_of": Number(int, 1, 8),
    "beam_size": Number(int, -1, 8),
    "audio_ctx": Number(int, 0, 1500),
    "max_context": Number(int, -1, _INT),
    "word_thold": Number(float, 0.0, 1.0),
    "entropy_thold": Number(float, -100.0, 100.0),
    "logprob_thold": Number(float, -100.0, 100.0),
    "no_speech_thold": Number(float, 0.0, 1.0),
    "vad_threshold": Number(float, 0.0, 1.0),
    "vad_min_speech_duration_ms": Number(int, 0, _INT),
    "vad_min_silence_duration_ms": Number(int, 0, 10_000),
    "vad_max_speech_duration_s": Number(float, 0.0, 3.5e38),
    "vad_speech_pad_ms": Number(int, 0, 10_000),
    "vad_samples_overlap": Number(float, 0.0, 30.0),
}

BOOLEANS = (
    "translate",
    "detect_language",
    "no_timestamps",
    "token_timestamps",
    "split_on_word",
    "carry_initial_prompt",
    "suppress_nst",
    "no_language_probabilities",
    "diarize",
    "tinydiarize",
    "vad",
)

_TEXT_FIELD = {"type": "string"}
DOCUMENTED: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "language": _TEXT_FIELD,
                        "prompt": _TEXT_FIELD,
                        "response_format": {"type": "string", "enum": list(FORMATS)},
                        **{name: {"type": "boolean"} for name in BOOLEANS},
                        **{
                            name: {
                                "type": "integer" if n.kind is int else "number",
                                "minimum": n.low,
                                "maximum": n.high,
                            }
                            for name, n in NUMBERS.items()
                        },
                    },
                }
            }
        },
    }
}

LOADED: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["model"],
                    "properties": {"model": _TEXT_FIELD},
                }
            }
        },
    }
}


@router.post("/inference", openapi_extra=DOCUMENTED)
async def inference(request: Request) -> Response:
    """Transcribe one file; the fields are whisper-server's. `diarize` (it wants a speaker a channel, and channels are
    mixed here) and `vad_samples_overlap` (pieces of speech are joined, none twice) are checked and change nothing."""
    upload = await read_upload(request)
    shape = one_of(upload, "response_format", FORMATS, "json")
    options = read_options(upload)
    if upload.sha256 is None:
        raise BadRequest('The field "file" is missing: send the sound in it.')
    options.setdefault("language", "en")
    wrapped = bool(options.get("max_len")) or bool(options.get("split_on_word"))
    if options.get("no_timestamps"):
        options["token_timestamps"] = False
    elif "token_timestamps" not in options:
        options["token_timestamps"] = shape == "verbose_json" or wrapped
    if options["token_timestamps"] and not options.get("max_len") and (shape == "verbose_json" or wrapped):
        options["max_len"] = WRAP
        options.setdefault("split_on_word", True)  # theirs breaks inside words
    if shape != "verbose_json":
        options["no_language_probabilities"] = True
    result = await transcribe(request, upload, options)
    return answer(shape, result, options)


@router.post("/load", openapi_extra=LOADED)
async def load(request: Request) -> Response:
    """whisper-server swaps its model here. Ours is a setting, so only the model that is loaded is confirmed."""
    upload = await read_upload(request)
    wanted = (upload.last("model") or "").strip()
    if not wanted:
        raise BadRequest('The field "model" is missing.')
    state = request.app.state.hub.model(Kind.STT)
    if state.status != "ready":
        raise Unavailable(state.error)
    names = {str(facts(state).get("model")), str(facts(state).get("path")), Path(str(facts(state).get("path"))).name}
    if wanted in names or Path(wanted).name in names:
        return PlainTextResponse("Load was successful!")
    raise NotSupported(
        f"The speech model is {facts(state).get('model')}; to use another, set stt.model in batch.toml and restart."
    )


async def transcribe(request: Request, upload: Upload, options: Mapping[str, Any], *, words: bool = False) -> dict[str, Any]:
    """Queue the uploaded file for a waiting caller and wait for its TranscribeResult."""
    (ticket,) = await submit(request, [await draft(request, upload, options, words=words)], upload.fingerprint)
    async with cancel_on_disconnect(request, ticket):
        return dict(await result_dict(ticket))


async def draft(request: Request, upload: Upload, options: Mapping[str, Any], *, words: bool = False) -> Draft:
    assert upload.sha256 is not None
    seconds = await asyncio.to_thread(likely_seconds, request.app.state.hub.path(upload.sha256))
    asked: dict[str, Any] = {"blob": upload.sha256, "options": dict(options), "words": words}
    if upload.filename:
        asked["filename"] = upload.filename
    return Draft(
        to_payload("transcribe", asked),
        Origin.HTTP,
        Priority.LARGE_CALL if seconds > LARGE else Priority.CALLER,
        blobs=(upload.sha256,),
        waited=True,
        source=upload.filename or None,
    )


def read_options(upload: Upload) -> dict[str, Any]:
    """The fields that were sent, typed and checked. Raises BadRequest that names the field."""
    found: dict[str, Any] = {}
    for name, rule in NUMBERS.items():
        if given := (upload.last(name) or "").strip():
            found[name] = _number(name, given, rule)
    for name in BOOLEANS:
        if (said := upload.last(name)) is not None:
            found[name] = is_true(said)
    if "suppress_nst" not in found and (said := upload.last("suppress_non_speech")) is not None:
        found["suppress_nst"] = is_true(said)
    if (prompt := upload.last("prompt")) is not None:
        if "\0" in prompt:
            raise BadRequest('"prompt" must not hold a zero character.')
        found["prompt"] = prompt
    if (wanted := upload.last("language")) is not None:
        found["language"] = read_language(wanted)
    return found


def read_language(wanted: str) -> str:
    code = languages.normalise(wanted)
    if code is None:
        raise BadRequest(
            f'"language": "{wanted[:40]}" is not a language that Whisper knows; use a code such as en or zh, or auto.',
            param="language",
        )
    return code


def one_of(upload: Upload, name: str, allowed: tuple[str, ...], otherwise: str) -> str:
    given = (upload.last(name) or "").strip() or otherwise
    if given not in allowed:
        raise BadRequest(f'"{name}" must be one of {", ".join(allowed)}, not "{given[:40]}".', param=name)
    return given


def _number(name: str, given: str, rule: Number) -> int | float:
    kind = "a whole number" if rule.kind is int else "a number"
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if "_" in given or not math.isfinite(value) or (rule.kind is int and value != int(value)):
        raise BadRequest(f'"{name}" must be {kind}, not "{given[:40]}".', param=name)
    if not rule.low <= value <= rule.high:
        raise BadRequest(f'"{name}" must be from {rule.low:g} to {rule.high:g}, not {given[:40]}.', param=name)
    if 0 < value < rule.step:
        raise BadRequest(f'"{name}" must be 0 or from {rule.step:g} to {rule.high:g}, not {given[:40]}.', param=name)
    return rule.kind(value)


def is_true(said: str) -> bool:
    return said.strip().lower() in ("true", "1", "yes", "y", "on")


def answer(shape: str, result: Mapping[str, Any], options: Mapping[str, Any]) -> Response:
    """The result in whisper-server's shape."""
    match shape:
        case "text":
            return PlainTextResponse(result["text"])
        case "srt":
            text = as_srt(result["segments"], int(options.get("offset_n", 0)))
            return Response(text.encode(), media_type="application/x-subrip")
        case "vtt":
            return Response(as_vtt(result["segments"]).encode(), media_type="text/vtt")
        case "verbose_json":
            return json_response(_verbose(result, options))
    body = {"text": result["text"]}
    if result.get("truncated"):
        body["truncated"] = result["truncated"]
    return json_response(body)


def json_response(body: Any) -> Response:
    return Response(orjson.dumps(body), media_type="application/json")


def _verbose(result: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    kept = ["id", "text", "tokens", "words", "temperature", "avg_logprob", "no_speech_prob", "speaker_turn_next"]
    if not options.get("no_timestamps"):
        kept[2:2] = ["start", "end"]
    body: dict[str, Any] = {
        "task": "translate" if options.get("translate") else "transcribe",
        "language": result["language_name"],
        "duration": result["duration"],
        "text": result["text"],
        "segments": [{key: segment[key] for key in kept if key in segment} for segment in result["segments"]],
    }
    shares = result.get("language_probabilities")
    if shares and not options.get("no_language_probabilities"):
        code = max(shares, key=lambda c: shares[c])
        body["detected_language"] = languages.name(code)
        body["detected_language_probability"] = shares[code]
        body["language_probabilities"] = shares
    if result.get("truncated"):
        body["truncated"] = result["truncated"]
    return body
