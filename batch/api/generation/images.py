"""Pictures of a chat: data: URLs checked and put into the spool, where the sha256 of their bytes names them.

The bytes go on as they came: the worker decodes them.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator

from batch.api.generation.conversation import ChatRequest, DocumentSource, FileSource, ImageSource, SpooledSource, Turn
from batch.api.generation.documents import text_document
from batch.batches.file_store import FileStore
from batch.errors import BadRequest, NotFound, TooLarge, UnsupportedMedia
from batch.media.document.pdf_pages import page_pictures
from batch.media.image import image_header
from batch.payloads.chat import ImagePart, Message, Part, TextPart
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Kind
from batch.settings import LimitSettings

_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_WHITESPACE = b" \t\r\n\f\v"


async def keep_pictures(
    chat: ChatRequest, hub: Hub, limits: LimitSettings, batch: int | None = None
) -> tuple[list[Message], tuple[str, ...]]:
    """The chat's messages with their pictures in the spool, and the sha256 names of all of those.

    `batch`: the sequence of the batch whose line the chat is, which holds files that may be gone otherwise. Raises BadRequest
    for what is no picture, TooLarge for too many, too big or too many pixels.
    """
    pictures = sum(isinstance(source, (ImageSource, FileSource, SpooledSource)) for source in chat.sources)
    if pictures > limits.images:
        raise TooLarge(f"The request holds {pictures} images; this service takes {limits.images} at most.")
    spooler = _Spooler(hub, limits, pictures, batch, hub.queue_named(Kind.VLM, chat.model))
    messages = [await spooler.message(turn) for turn in chat.turns]
    return messages, tuple(dict.fromkeys(spooler.blobs))


class _Spooler:
    def __init__(self, hub: Hub, limits: LimitSettings, pictures: int, batch: int | None, queue: str) -> None:
        self._hub, self._limits, self._batch = hub, limits, batch
        self._pictures, self._queue = pictures, queue
        self._image_count = 0
        self.blobs: list[str] = []

    async def message(self, turn: Turn) -> Message:
        content = turn.content
        parts = [part async for part in self._parts(turn)] if isinstance(content, list) else content
        return Message(
            role=turn.role,
            content=parts,
            name=turn.name,
            reasoning_content=turn.reasoning_content,
            tool_calls=turn.tool_calls,
            tool_call_id=turn.tool_call_id,
        )

    async def _parts(self, turn: Turn) -> AsyncIterator[Part]:
        for part in turn.parts:
            match part:
                case TextPart():
                    yield part
                case ImageSource():
                    yield await self._keep(await self._picture(part.encoded))
                case DocumentSource():
                    data = await asyncio.to_thread(_decode_base64, part.encoded, "document", self._limits.image_bytes)
                    async for page in self._pages(data, part.title):
                        yield page
                case SpooledSource():
                    yield await self._spooled(part.sha256)
                case FileSource():
                    async for piece in self._stored(part):
                        yield piece

    async def _picture(self, url: str) -> bytes:
        self._check_vision()
        self._image_count += 1
        try:
            return await asyncio.to_thread(_read_image, url, self._limits)
        except (BadRequest, TooLarge) as error:
            if self._pictures == 1:
                raise
            raise type(error)(f"Image {self._image_count} of {self._pictures}: {error.message}") from None

    async def _spooled(self, sha256: str) -> ImagePart:
        """A picture of a stored item, checked as one that is sent is."""
        limits = self._limits
        try:
            await asyncio.to_thread(
                lambda: image_header(self._hub.path(sha256), max_pixels=limits.image_pixels, max_bytes=limits.image_bytes)
            )
        except UnsupportedMedia as error:
            raise BadRequest(f"image_url: {error.message}") from None
        except OSError:
            pass  # said below
        return await self._refer(sha256)

    async def _refer(self, sha256: str) -> ImagePart:
        """A picture that is in the spool already. Raises BadRequest where it is not, or the model sees nothing."""
        self._check_vision()
        if not (await self._hub.fetch(sha256)).is_file():
            raise BadRequest("A picture of the conversation is gone from the spool: send it again.")
        self.blobs.append(sha256)
        return ImagePart(blob=sha256)

    async def _stored(self, source: FileSource) -> AsyncIterator[Part]:
        """An uploaded file as parts of a message. Raises NotFound, and BadRequest for what no model here reads."""
        files = FileStore(self._hub.store)
        try:
            file = await self._hub.in_thread(lambda: files.named_file(source.file_id, self._batch))
        except NotFound as error:
            raise NotFound(f"Field '{source.path}': {error.message}", param=source.path) from None
        if file.bytes > self._limits.image_bytes:
            limit = self._limits.image_bytes
            raise TooLarge(f"Field '{source.path}': the file has {file.bytes} bytes; {limit} are taken at most.")
        path = await self._hub.fetch(file.sha256)
        data = await asyncio.to_thread(path.read_bytes)
        if data.startswith(b"%PDF-"):
            async for page in self._pages(data, file.filename):
                yield page
            return
        try:
            image_header(data, max_pixels=self._limits.image_pixels, max_bytes=self._limits.image_bytes)
        except UnsupportedMedia:
            try:
                yield text_document(data.decode("utf-8-sig"), file.filename)
            except UnicodeDecodeError:
                message = f"Field '{source.path}': {file.filename} is neither a picture, a PDF nor a text in UTF-8"
                raise BadRequest(message, param=source.path) from None
            return
        yield await self._refer(file.sha256)

    async def _pages(self, data: bytes, title: str) -> AsyncIterator[Part]:
        """A document's pages as pictures, or as text where the model sees nothing."""
        room = self._limits.images - len(self.blobs)
        pages = await page_pictures(data, sees=self._sees(), max_pages=room)
        if title:
            yield TextPart(text=title)
        for page in pages:
            yield TextPart(text=page) if isinstance(page, str) else await self._keep(page)

    def _sees(self) -> bool:
        info = self._hub.model(self._queue).info
        return info is None or info.vision

    def _check_vision(self) -> None:
        if not self._sees():
            raise BadRequest("image input is not supported - hint: this model has no vision projector (mmproj)")

    async def _keep(self, data: bytes) -> ImagePart:
        blob = await self._hub.keep(data)
        self.blobs.append(blob)
        return ImagePart(blob=blob)


def _read_image(url: str, limits: LimitSettings) -> bytes:
    """The bytes of a picture's URL, once its header shows that it is one and not too large."""
    data = _decode_base64(_base64_of(url), "image_url", limits.image_bytes)
    try:
        image_header(data, max_pixels=limits.image_pixels, max_bytes=limits.image_bytes)
    except UnsupportedMedia as error:  # 415 is for a body; the body here is JSON, and one field of it is wrong
        raise BadRequest(f"image_url: {error.message}") from None
    return data


def _base64_of(url: str) -> str:
    scheme = url[:8].lower()
    if scheme.startswith(("http:", "https:", "file:", "ftp:")):
        raise BadRequest(
            f"image_url: {scheme.split(':')[0]} addresses are not fetched; send the image itself as a "
            "data: URL (data:image/jpeg;base64,…)"
        )
    if not scheme.startswith("data:"):
        return url
    head, comma, text = url.partition(",")
    if not comma:
        raise BadRequest("image_url: Invalid uri-encoded base64 value")
    if not head.endswith("base64"):
        raise BadRequest("image_url: uri must be base64 encoded")
    return text


def _decode_base64(text: str, field: str, max_bytes: int) -> bytes:
    """Bytes of base64 in either alphabet, with or without its padding and line feeds."""
    if len(text) * 3 // 4 > max_bytes + 2:
        raise TooLarge(f"An image or document is larger than {max_bytes} bytes.")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    try:
        data = text.encode("ascii").translate(_URL_SAFE, _WHITESPACE).rstrip(b"=")
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest(f"{field}: Invalid base64 value") from None
