"""A form's parts, headers and fields are bounded before they are taken apart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from batch.api.http.multipart import MAX_FIELD_BYTES, MAX_PARTS, FormUpload, read_upload
from batch.errors import BadRequest, BatchError, TooLarge

KIND = "multipart/form-data; boundary=b"


class Spool:
    """The hub's side of an upload."""

    def __init__(self) -> None:
        self.kept = b""

    async def keep_stream(self, chunks: AsyncIterator[bytes], *, durable: bool = False) -> tuple[str, int]:
        self.kept = b"".join([chunk async for chunk in chunks])
        return "ab" * 32, len(self.kept)


def read(body: bytes, kind: str = KIND, block: int = 1 << 16) -> tuple[FormUpload, Spool]:
    hub = Spool()

    async def stream() -> AsyncIterator[bytes]:
        for at in range(0, len(body), block):
            yield body[at : at + block]

    request: Any = SimpleNamespace(
        headers={"content-type": kind}, stream=stream, app=SimpleNamespace(state=SimpleNamespace(hub=hub))
    )
    return asyncio.run(read_upload(request)), hub


def part(name: str, value: bytes = b"x", *headers: str) -> bytes:
    head = "\r\n".join([f'Content-Disposition: form-data; name="{name}"', *headers])
    return b"--b\r\n" + head.encode() + b"\r\n\r\n" + value + b"\r\n"


FILE = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n'
END = b"--b--\r\n"


@pytest.mark.parametrize("block", [1, 7, 1 << 16])
def test_fields_and_the_file_are_read_however_they_come(block: int) -> None:
    upload, hub = read(part("a", b"1") + FILE + part("a", b"2") + part("b", "é".encode()) + END, block=block)
    assert upload.fields == {"a": ["1", "2"], "b": ["é"]} and upload.last("a") == "2" and upload.last("c") is None
    assert (upload.filename, upload.size, hub.kept) == ("a.wav", 4, b"RIFF")


def test_a_form_of_hundreds_of_thousands_of_parts_is_refused_at_once() -> None:
    body = part("a") * 300_000 + END
    started = time.monotonic()
    with pytest.raises(BadRequest, match=f"more than {MAX_PARTS} fields"):
        read(body)
    assert time.monotonic() - started < 30
    upload, _ = read(part("a") * (MAX_PARTS - 1) + FILE + END)
    assert len(upload.fields["a"]) == MAX_PARTS - 1 and upload.size == 4


@pytest.mark.parametrize(
    "body",
    [
        b"--b\r\nContent-Disposition: form-data; name=" + b"n" * 1_000_000 + b"\r\n\r\nx\r\n" + END,
        b"--b\r\n" + b"X" * 1_000_000 + b": y\r\n\r\nx\r\n" + END,
        b"--b\r\n" + b"X: y\r\n" * 100_000 + b"\r\nx\r\n" + END,
        part("a", b"x", "X: " + ";" * 4000) * 200 + END,
        part("a", b"x", 'Content-Type: x; y="' + ";" * 4000) * 200 + END,
        (b'--b\r\nContent-Disposition: form-data; name="' + b";a=" * 1300 + b"\r\n\r\nx\r\n") * 200 + END,
    ],
    ids=["name", "header name", "headers", "semicolons", "open quote", "parameters"],
)
def test_headers_of_parts_are_bounded_one_by_one_and_together(body: bytes) -> None:
    started = time.monotonic()
    with pytest.raises(BadRequest):
        read(body)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (part("a", b"x" * (MAX_FIELD_BYTES + 1)) + END, TooLarge),
        ((part("a", b"x" * (MAX_FIELD_BYTES // 2)) * 3) + END, TooLarge),
        (FILE + FILE + END, BadRequest),
        (part("a"), BadRequest),
        (FILE, BadRequest),
        (FILE[:-20], BadRequest),
        (b"nothing", BadRequest),
        (b"", BadRequest),
        (b"--b\r\nno header\r\n\r\nx\r\n" + END, BadRequest),
    ],
)
def test_a_form_that_cannot_be_used_is_one_sentence(body: bytes, error: type[BatchError]) -> None:
    with pytest.raises(error) as caught:
        read(body)
    assert caught.value.message.endswith(".") and len(caught.value.message) < 300


@pytest.mark.parametrize("kind", ["", "application/json", "multipart/form-data", "multipart/form-data; boundary=" + "b" * 500])
def test_a_body_that_is_no_form_is_told_so(kind: str) -> None:
    with pytest.raises(BadRequest, match="multipart"):
        read(FILE + END, kind)


def test_bytes_that_look_like_boundaries_cost_no_time() -> None:
    value = (b"\r\n--" * 100 + b"\r\n-" * 100 + b"\r" * 100) * 10_000
    started = time.monotonic()
    upload, hub = read(FILE.replace(b"RIFF", value) + END)
    assert hub.kept == value and upload.size == len(value) and time.monotonic() - started < 60
