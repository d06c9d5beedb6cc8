"""POST /inference as whisper.cpp's server speaks it, and its /load."""

from __future__ import annotations

from pathlib import Path

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response

from batch.api.http.multipart import read_upload
from batch.api.openapi_schemas import form_schema
from batch.api.speech.job import check_file, transcribe
from batch.api.speech.request import RESPONSE_FORMATS, option_properties, read_choice, read_options
from batch.api.speech.response import to_whisper_server, write_off_loop
from batch.errors import BadRequest, NotSupported, Unavailable
from batch.payloads.speech import TranscriptionOptions
from batch.queue.jobs import Kind

router = APIRouter()

WRAP_CHARS = 60
"""Characters at which whisper-server wraps segments when the response has token times and max_len is not given."""

_TEXT_FIELD = {"type": "string"}
INFERENCE_FORM = form_schema(
    {
        "file": {"type": "string", "format": "binary"},
        "language": _TEXT_FIELD,
        "audio_track": _TEXT_FIELD,
        "prompt": _TEXT_FIELD,
        "response_format": {"type": "string", "enum": list(RESPONSE_FORMATS)},
        **option_properties(),
    },
    required=("file",),
)
LOAD_FORM = form_schema({"model": _TEXT_FIELD}, required=("model",))


@router.post("/inference", openapi_extra=INFERENCE_FORM)
async def inference(request: Request) -> Response:
    """Transcribe one file; the fields are whisper-server's. `diarize` (it wants a speaker a channel, and channels are
    mixed here) and `vad_samples_overlap` (pieces of speech are joined, none twice) are checked and change nothing."""
    upload = await read_upload(request)
    form = read_choice(upload, "response_format", RESPONSE_FORMATS, "json")
    options = _with_defaults(read_options(upload), form)
    check_file(upload)
    result = await transcribe(request, upload, options)
    return await write_off_loop(result, lambda: to_whisper_server(form, result, options))


@router.post("/load", openapi_extra=LOAD_FORM)
async def load(request: Request) -> Response:
    """whisper-server swaps its model here. Ours is a setting, so only the model that is loaded is confirmed."""
    upload = await read_upload(request)
    name = (upload.last("model") or "").strip()
    if not name:
        raise BadRequest('The field "model" is missing.')
    state = request.app.state.hub.model(Kind.STT)
    if state.status != "ready" or state.info is None:
        raise Unavailable(state.error)
    names = {state.info.model, state.info.path, Path(state.info.path).name}
    if name in names or Path(name).name in names:
        return PlainTextResponse("Load was successful!")
    raise NotSupported(f"The speech model is {state.info.model}; to use another, set stt.model in batch.toml and restart.")


def _with_defaults(options: TranscriptionOptions, form: str) -> TranscriptionOptions:
    """The options with whisper-server's defaults for this response format."""
    is_verbose = form == "verbose_json"
    is_wrapped = bool(options.max_len) or bool(options.split_on_word)
    if options.no_timestamps:
        timed = False
    elif options.token_timestamps is None:
        timed = is_verbose or is_wrapped
    else:
        timed = options.token_timestamps
    max_len, split_on_word = options.max_len, options.split_on_word
    if timed and not max_len and (is_verbose or is_wrapped):
        max_len = WRAP_CHARS
        split_on_word = True if split_on_word is None else split_on_word  # theirs breaks inside words
    return msgspec.structs.replace(
        options,
        language=options.language or "en",
        token_timestamps=timed,
        max_len=max_len,
        split_on_word=split_on_word,
        no_language_probabilities=options.no_language_probabilities if is_verbose else True,
    )
