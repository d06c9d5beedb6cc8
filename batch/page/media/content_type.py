"""What a browser may show of a stranger's file: pictures, sound, films and plain text that are such by their first bytes."""

from __future__ import annotations

from batch.media.kind import HEAD_BYTES as HEAD_BYTES
from batch.media.kind import MediaKind, kind_of

UNKNOWN = "application/octet-stream"
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"GIF8", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (8, b"WAVE", "audio/wav"),
    (0, b"fLaC", "audio/flac"),
    (0, b"ID3", "audio/mpeg"),
)
_BRANDS = {b"M4A ": "audio/mp4", b"M4B ": "audio/mp4", b"avif": "image/avif", b"avis": "image/avif", b"qt  ": "video/quicktime"}


def content_type_of(head: bytes, name: str) -> str:
    """The type under which a file's bytes are sent; `UNKNOWN` for what is offered as a download only, SVG and HTML among
    it. `head` is its first bytes."""
    for offset, signature, media_type in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return media_type
    kind = kind_of(head, name)
    if head[4:8] == b"ftyp":
        if kind is MediaKind.IMAGE:
            return _BRANDS.get(head[8:12], UNKNOWN)
        return _BRANDS.get(head[8:12], "audio/mp4" if kind is MediaKind.AUDIO else "video/mp4")
    if head.startswith(b"OggS"):
        return "video/ogg" if kind is MediaKind.VIDEO else "audio/ogg"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "audio/webm" if kind is MediaKind.AUDIO else "video/webm"
    if kind is MediaKind.AUDIO and len(head) > 1 and head[0] == 0xFF:
        return "audio/aac" if head[1] & 0xF6 == 0xF0 else "audio/mpeg"
    if kind is MediaKind.TEXT and not head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "text/plain; charset=utf-8"
    return UNKNOWN


def is_shown(media_type: str) -> bool:
    """Whether a browser shows it in its place; everything else is a download."""
    return media_type != UNKNOWN
