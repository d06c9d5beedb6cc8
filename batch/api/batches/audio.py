"""/v1/audio/transcriptions and translations as lines of a batch: sound by file id, answers in any of the route's formats."""

from __future__ import annotations

from typing import cast

import msgspec

from batch.api.errors import to_openai_error
from batch.api.http.multipart import FormUpload
from batch.api.json_body import quoted
from batch.api.speech.openai_request import TranscriptionRequest, read_transcription
from batch.api.speech.response import to_openai
from batch.batches.file_store import FileStore
from batch.batches.line_endpoint import JsonObject, LineJob, LineResponse
from batch.errors import BadRequest, BatchError, NotFound
from batch.payloads.job_payload import Result
from batch.payloads.json_text import encode
from batch.payloads.speech import TranscriptionPayload, TranscriptionResult
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Kind

JSON_FORMATS = ("json", "verbose_json")


class AudioEndpoint:
    """The JSON of a line has the form's fields, and `file_id` of an uploaded file in place of `file` (ours)."""

    def __init__(self, hub: Hub, *, translate: bool) -> None:
        self._hub = hub
        self._translate = translate

    def count_tasks(self, body: JsonObject) -> int:
        return 1

    async def create_job(self, body: JsonObject, batch: int | None = None) -> LineJob:
        transcription = self._read(body)
        file_id = body.get("file_id")
        if not isinstance(file_id, str) or not file_id:
            raise BadRequest("'file_id' is required: the id of an uploaded sound file", param="file_id")
        files = FileStore(self._hub.store)
        try:
            file = await self._hub.in_thread(lambda: files.named_file(file_id, batch))
        except NotFound as error:
            raise NotFound(error.message, param="file_id") from None
        if not (await self._hub.fetch(file.sha256)).is_file():
            raise NotFound(f"The bytes of {quoted(file_id)} are gone from the spool.", param="file_id")
        payload = TranscriptionPayload(
            blob=file.sha256,
            filename=file.filename,
            options=transcription.options,
            words=transcription.words,
            logprobs=transcription.logprobs,
        )
        return LineJob(payload=payload, blobs=(file.sha256,))

    def to_response(self, body: JsonObject, result: Result, job: str) -> LineResponse:
        transcription, transcript = self._read(body), cast(TranscriptionResult, result)
        response = to_openai(transcription.response_format, transcript, transcription.granularities, translate=self._translate)
        # Subtitles and plain text are one JSON string: a line holds JSON.
        data = bytes(response.body)
        answer = data if transcription.response_format in JSON_FORMATS else encode(data.decode())
        model = body.get("model")
        requested = model if isinstance(model, str) else ""
        name = self._hub.model(self._hub.queue_named(Kind.STT, requested)).name or requested
        return LineResponse(body=msgspec.Raw(answer), model=name)

    def to_error(self, error: BatchError) -> JsonObject:
        return to_openai_error(error)

    def _read(self, body: JsonObject) -> TranscriptionRequest:
        return read_transcription(form_of(body), translate=self._translate)


def form_of(body: JsonObject) -> FormUpload:
    """A JSON object as the form that the route would have got. Raises BadRequest for a value that no field has."""
    fields: dict[str, list[str]] = {}
    for name, value in body.items():
        if name == "file":
            raise BadRequest("'file' cannot stand in a line of a batch: upload it, and name it as 'file_id'", param="file")
        if value is not None and name != "file_id":
            fields[name] = [_text(name, one) for one in (value if isinstance(value, list) else [value])]
    return FormUpload({name: texts for name, texts in fields.items() if texts})


def _text(name: str, value: object) -> str:
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case dict() if name == "chunking_strategy":
            return encode(value).decode()
        case _:
            raise BadRequest(f"{quoted(name)} should be a text, a number or a list of texts", param=name[:80])
