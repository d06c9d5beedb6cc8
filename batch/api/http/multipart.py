"""Multipart bodies with one large file: fields into memory, the file as a stream into the spool."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

from fastapi import Request
from python_multipart.exceptions import FormParserError, MultipartParseError
from python_multipart.multipart import MultipartParser

from batch.api.jobs.submit import digest
from batch.errors import BadRequest, TooLarge

FIELD_BYTES = 1 << 20
"""Most bytes of all the small fields together."""

FIELDS = 256

LONGEST_NAME = 255
"""Characters of a file's name that are kept."""


@dataclass(slots=True)
class Upload:
    fields: dict[str, list[str]] = field(default_factory=dict)
    """Every field that is not the file, in order; a name may stand more than once."""
    sha256: str | None = None
    """Of the file in the spool; None when the body had none."""
    size: int = 0
    filename: str = ""

    @property
    def fingerprint(self) -> str:
        """Digest of what was sent; unlike the body's bytes it knows nothing of the boundary, which each try draws anew."""
        sent = json.dumps([sorted(self.fields.items()), self.sha256, self.filename])
        return digest(sent.encode())

    def last(self, name: str) -> str | None:
        return self.fields[name][-1] if name in self.fields else None


async def receive(request: Request, file_field: str = "file") -> Upload:
    """Read the whole body. Raises BadRequest for what is no multipart form, TooLarge past the service's limit."""
    kind = Message()
    kind["content-type"] = request.headers.get("content-type", "")
    boundary = kind.get_param("boundary")
    if kind.get_content_type() != "multipart/form-data" or not isinstance(boundary, str) or not boundary:
        raise BadRequest(f'Send the sound as multipart/form-data, in a field called "{file_field}".')
    parts = _Parts()
    try:
        parser = MultipartParser(boundary.encode("latin-1", "replace"), parts.callbacks())
    except FormParserError as problem:
        raise BadRequest(f"The multipart boundary cannot be used: {problem}.") from None
    found = Upload()
    limit = int(request.app.state.settings.limits.body_bytes)
    taken = small = 0
    current: _Field | None = None
    sink: _Sink | None = None
    try:
        async for block in request.stream():
            taken += len(block)
            if taken > limit:
                raise TooLarge(f"The request is larger than {limit} bytes, the most this service takes.")
            try:
                parser.write(block)
            except MultipartParseError as problem:
                raise BadRequest(f"The multipart body is broken: {problem}.") from None
            for event, data in parts.drain():
                if event == "begin":
                    current = _Field(data)
                    if current.name == file_field:
                        if found.sha256 is not None or sink is not None:
                            raise BadRequest(f'The field "{file_field}" stands twice: send one file a request.')
                        found.filename = current.filename
                        sink = _Sink(request.app.state.hub)
                elif event == "data" and current is not None:
                    if current.name == file_field and sink is not None:
                        await sink.put(data)
                    else:
                        small += len(data)
                        if small > FIELD_BYTES:
                            raise TooLarge(f'The field "{current.name}" is too long.')
                        current.value += data
                elif event == "end" and current is not None:
                    if sink is not None and current.name == file_field:
                        found.sha256, found.size = await sink.close()
                        sink = None
                    elif len(found.fields) < FIELDS:
                        found.fields.setdefault(current.name, []).append(current.value.decode("utf-8", "replace"))
                    current = None
        if current is not None or not parts.ended:
            raise BadRequest("The multipart body ends in the middle.")
    finally:
        if sink is not None:
            sink.drop()
    return found


class _Field:
    def __init__(self, headers: dict[str, str]) -> None:
        described = Message()
        described["content-disposition"] = headers.get("content-disposition", "")
        name = described.get_param("name", "", header="content-disposition")
        try:
            filename = described.get_filename()
        except (ValueError, LookupError):  # it is in a coding that no text is in, or its bytes are not
            filename = None
        self.name = name if isinstance(name, str) else ""
        # Shown to people, never opened.
        last = (filename or "").replace("\\", "/").rsplit("/", 1)[-1]
        self.filename = "".join(c if c.isprintable() else "\ufffd" for c in last)[:LONGEST_NAME]
        self.value = b""


class _Parts:
    """What the parser calls back, kept in order until it can be awaited on."""

    def __init__(self) -> None:
        self._events: list[tuple[str, Any]] = []
        self._headers: dict[str, str] = {}
        self._name = self._value = b""
        self.ended = False

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._headers.clear,
            "on_header_field": self._on_name,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header,
            "on_headers_finished": lambda: self._events.append(("begin", dict(self._headers))),
            "on_part_data": lambda data, start, end: self._events.append(("data", bytes(data[start:end]))),
            "on_part_end": lambda: self._events.append(("end", None)),
            "on_end": self._on_end,
        }

    def drain(self) -> list[tuple[str, Any]]:
        events, self._events = self._events, []
        return events

    def _on_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        if len(self._headers) < 16:
            self._headers[self._name.decode("latin-1").lower()] = self._value.decode("utf-8", "replace")[:4096]
        self._name = self._value = b""

    def _on_end(self) -> None:
        self.ended = True


class _Sink:
    """Hands blocks to the spool as they come; at most a few wait in memory."""

    def __init__(self, hub: Any) -> None:
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=4)
        self._task: asyncio.Task[tuple[str, int]] = asyncio.ensure_future(hub.keep_stream(self._blocks()))

    async def put(self, block: bytes) -> None:
        pending = asyncio.ensure_future(self._waiting.put(block))
        await asyncio.wait({pending, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if not pending.done():
            pending.cancel()
            await self._task  # the spool gave up, say on a full disk: raises its error

    async def close(self) -> tuple[str, int]:
        await self.put(b"")
        await self._waiting.put(None)
        return await self._task

    def drop(self) -> None:
        self._task.cancel()

    async def _blocks(self) -> AsyncIterator[bytes]:
        while (block := await self._waiting.get()) is not None:
            if block:
                yield block
