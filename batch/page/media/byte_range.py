"""One file's bytes as an answer, whole or a range of them, read as fast as the client takes them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import NamedTuple
from urllib.parse import quote

from starlette.responses import Response, StreamingResponse

from batch.page.access import MEDIA_POLICY
from batch.page.media.content_type import HEAD_BYTES, content_type_of, is_shown
from batch.page.media.source_bytes import SourceBytes

BLOCK_BYTES = 256 << 10
_RANGE = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")


class ByteRange(NamedTuple):
    """Bytes from a first one to one past the last."""

    start: int
    end: int


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """The bytes that a Range header asks for; the whole file where it names none or several ranges, as a server may do;
    None where it names none of the file's bytes."""
    whole = ByteRange(0, size)
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.groups() == ("", ""):
        return whole
    first, last = match.groups()
    if not first:  # so many at the end
        return ByteRange(max(0, size - int(last)), size) if int(last) and size else None
    start, end = int(first), min(size, int(last) + 1) if last else size
    if last and int(last) < start:
        return whole  # no valid range counts as none
    return ByteRange(start, end) if start < size else None


async def file_response(
    source: SourceBytes, range_header: str | None, known_tag: str | None, range_tag: str | None = None
) -> Response:
    """The answer; closes the file. `known_tag`: what If-None-Match says; `range_tag`: what If-Range says, of which file a
    part is wanted: of another one all is sent."""
    tag = f'"{source.tag}"'
    if known_tag == tag:
        source.close()
        return _with_headers(Response(status_code=304), tag)
    bytes_ = parse_range(range_header if range_tag in (None, tag) else None, source.size)
    if bytes_ is None:
        source.close()
        return _with_headers(Response(status_code=416, headers={"content-range": f"bytes */{source.size}"}), tag)
    try:
        head = await asyncio.to_thread(source.read, HEAD_BYTES, 0)
    except BaseException:
        source.close()
        raise
    media_type = content_type_of(head, source.name)
    is_part = bytes_ != (0, source.size)
    response = StreamingResponse(_blocks(source, bytes_), 206 if is_part else 200, media_type=media_type)
    response.headers["content-length"] = str(bytes_.end - bytes_.start)
    if is_part:
        response.headers["content-range"] = f"bytes {bytes_.start}-{bytes_.end - 1}/{source.size}"
    place = "inline" if is_shown(media_type) else "attachment"
    name = quote(source.name.encode("utf-8", "replace"), safe="")
    response.headers["content-disposition"] = f"{place}; filename*=UTF-8''{name}"
    return _with_headers(response, tag)


def _with_headers(response: Response, tag: str) -> Response:
    response.headers["accept-ranges"] = "bytes"
    response.headers["etag"] = tag
    response.headers["cache-control"] = "private, no-cache"
    response.headers["content-security-policy"] = MEDIA_POLICY
    return response


async def _blocks(source: SourceBytes, bytes_: ByteRange) -> AsyncIterator[bytes]:
    try:
        place = bytes_.start
        while place < bytes_.end:
            block = await asyncio.to_thread(source.read, min(BLOCK_BYTES, bytes_.end - place), place)
            if not block:
                return  # it was cut off meanwhile: the connection ends early, which the client sees
            place += len(block)
            yield block
    finally:
        source.close()
