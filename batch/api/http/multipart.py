"""Multipart forms with one large file: fields into memory, the file as a stream into the spool."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from email.message import Message
from typing import TYPE_CHECKING, Literal, NamedTuple

from fastapi import Request
from python_multipart.exceptions import FormParserError, MultipartParseError
from python_multipart.multipart import MultipartParser

from batch.api.http.content_digest import digest
from batch.errors import BadRequest, TooLarge
from batch.queue.hub.hub import Hub

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_FIELD_BYTES = 1 << 20
"""Most bytes of all the small fields together."""
MAX_PARTS = 256
MAX_FILE_NAME_CHARS = 255
MAX_PART_HEADERS = 16
MAX_PART_HEADER_BYTES = 4 << 10
MAX_HEADER_BYTES = 64 << 10
"""Most bytes of all parts' headers together: taking a header apart costs the square of its length."""
MAX_WAITING_BLOCKS = 4
"""Blocks of a file that wait in memory for the spool."""


@dataclass(slots=True)
class FormUpload:
    """A form that was read whole."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    """Every field that is not the file, in order; a name may stand more than once."""
    sha256: str | None = None
    """Of the file in the spool; None when the form had none."""
    size: int = 0
    """Bytes of the file."""
    filename: str = ""

    @property
    def fingerprint(self) -> str:
        """Digest of the form's content; unlike the body's bytes it knows nothing of the boundary, which each try draws
        anew."""
        content = json.dumps([sorted(self.fields.items()), self.sha256, self.filename])
        return digest(content.encode())

    def last(self, name: str) -> str | None:
        """A field's last value; None where it does not stand."""
        return self.fields[name][-1] if name in self.fields else None


async def read_upload(request: Request, file_field: str = "file") -> FormUpload:
    """Read the whole form. Raises BadRequest for what is no multipart form, TooLarge for fields that are too long."""
    form = _Form(request.app.state.hub, file_field)
    parser = _PartParser(_boundary(request, file_field))
    try:
        async for block in request.stream():
            for event in parser.feed(block):
                await form.take(event)
        if not parser.ended:
            raise BadRequest("The multipart body ends in the middle.")
        return form.upload
    finally:
        form.abandon_file()


def _boundary(request: Request, file_field: str) -> bytes:
    kind = Message()
    kind["content-type"] = request.headers.get("content-type", "")
    boundary = kind.get_param("boundary")
    if kind.get_content_type() != "multipart/form-data" or not isinstance(boundary, str) or not boundary:
        raise BadRequest(f'Send the sound as multipart/form-data, in a field called "{file_field}".')
    return boundary.encode("latin-1", "replace")


class _PartEvent(NamedTuple):
    """What the parser read: a part's headers, some of its data, or its end."""

    kind: Literal["begin", "data", "end"]
    data: bytes = b""
    headers: dict[str, str] = {}  # noqa: RUF012  # never changed


class _PartParser:
    """python-multipart's callbacks as a list of events, which can be awaited on."""

    def __init__(self, boundary: bytes) -> None:
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin_part,
            "on_header_field": self._add_to_name,
            "on_header_value": self._add_to_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._add_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(
                boundary,
                callbacks,
                max_header_count=MAX_PART_HEADERS,
                max_header_size=MAX_PART_HEADER_BYTES,
            )
        except FormParserError as error:
            raise BadRequest(f"The multipart boundary cannot be used: {error}.") from None
        self._events: list[_PartEvent] = []
        self._headers: dict[str, str] = {}
        self._header_bytes = 0
        self._name = self._value = b""
        self.ended = False
        """Whether the closing boundary was read."""

    def feed(self, block: bytes) -> list[_PartEvent]:
        """The events in a block of the body. Raises BadRequest where it is no form."""
        try:
            self._parser.write(block)
        except MultipartParseError as error:
            raise BadRequest(f"The multipart body is broken: {error}.") from None
        events, self._events = self._events, []
        return events

    def _begin_part(self) -> None:
        self._headers = {}

    def _add_to_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._header_bytes += len(self._name) + len(self._value)
        if self._header_bytes > MAX_HEADER_BYTES:
            raise BadRequest(f"The headers of the form's fields are larger than {MAX_HEADER_BYTES} bytes.")
        self._headers[self._name.decode("latin-1").lower()] = self._value.decode("utf-8", "replace")
        self._name = self._value = b""

    def _end_headers(self) -> None:
        self._events.append(_PartEvent("begin", headers=self._headers))

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(_PartEvent("data", bytes(data[start:end])))

    def _end_part(self) -> None:
        self._events.append(_PartEvent("end"))

    def _end(self) -> None:
        self.ended = True


class _Form:
    """Puts the parts of a form where they belong."""

    def __init__(self, hub: Hub, file_field: str) -> None:
        self.upload = FormUpload()
        self._hub, self._file_field = hub, file_field
        self._parts = 0
        self._field_bytes = 0
        self._name = ""
        """Of the part under way."""
        self._value = bytearray()
        self._file: _FileSink | None = None
        """Where the part under way goes, when it is the file."""

    async def take(self, event: _PartEvent) -> None:
        """Handle one event, in order. Raises BadRequest and TooLarge."""
        match event.kind:
            case "begin":
                self._begin(event.headers)
            case "data":
                await self._add(event.data)
            case "end":
                await self._end()

    def abandon_file(self) -> None:
        """Stop an upload that was not read whole."""
        if self._file is not None:
            self._file.abandon()

    def _begin(self, headers: dict[str, str]) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise BadRequest(f"The form has more than {MAX_PARTS} fields.")
        self._name, filename = _disposition(headers.get("content-disposition", ""))
        self._value.clear()
        if self._name != self._file_field:
            return
        if self.upload.sha256 is not None:
            raise BadRequest(f'The field "{self._file_field}" stands twice: send one file a request.')
        self.upload.filename = filename
        self._file = _FileSink(self._hub)

    async def _add(self, data: bytes) -> None:
        if self._file is not None:
            await self._file.feed(data)
            return
        self._field_bytes += len(data)
        if self._field_bytes > MAX_FIELD_BYTES:
            raise TooLarge(f'The field "{self._name[:MAX_FILE_NAME_CHARS]}" is too long.')
        self._value += data

    async def _end(self) -> None:
        if self._file is not None:
            self.upload.sha256, self.upload.size = await self._file.close()
            self._file = None
        else:
            self.upload.fields.setdefault(self._name, []).append(self._value.decode("utf-8", "replace"))


def _disposition(header: str) -> tuple[str, str]:
    """A part's name, and its file's name as it is shown to people: it is never opened."""
    described = Message()
    described["content-disposition"] = header
    name = described.get_param("name", "", header="content-disposition")
    try:
        filename = described.get_filename()
    except (ValueError, LookupError):  # it is in a coding that no text is in, or its bytes are not
        filename = None
    last = (filename or "").replace("\\", "/").rsplit("/", 1)[-1]
    printable = "".join(char if char.isprintable() else "\ufffd" for char in last)[:MAX_FILE_NAME_CHARS]
    return name if isinstance(name, str) else "", printable


class _FileSink:
    """Hands blocks to the spool as they come; at most a few wait in memory."""

    def __init__(self, hub: Hub) -> None:
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=MAX_WAITING_BLOCKS)
        self._task: asyncio.Task[tuple[str, int]] = asyncio.ensure_future(hub.keep_stream(self._blocks()))

    async def feed(self, block: bytes) -> None:
        """Pass a block on. Raises the spool's error, say DiskFull, when it gave up."""
        pending = asyncio.ensure_future(self._waiting.put(block))
        await asyncio.wait({pending, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if not pending.done():
            pending.cancel()
            await self._task

    async def close(self) -> tuple[str, int]:
        """The file's sha256 and size, once it is in the spool whole."""
        await self.feed(b"")
        await self._waiting.put(None)
        return await self._task

    def abandon(self) -> None:
        """Stop, and leave nothing in the spool."""
        self._task.cancel()

    async def _blocks(self) -> AsyncIterator[bytes]:
        while (block := await self._waiting.get()) is not None:
            if block:
                yield block
