"""What a file is, judged by its content first and its name second."""

from __future__ import annotations

from enum import StrEnum

HEAD = 4096
"""How many first bytes `kind_of` wants to see."""


class MediaKind(StrEnum):
    """What the folder can make of a file."""

    IMAGE = "image"
    """Gets a caption."""
    AUDIO = "audio"
    """Gets a transcript."""
    VIDEO = "video"
    """Gets a transcript of its sound."""
    TEXT = "text"
    """Gets vectors."""
    UNKNOWN = "unknown"


_BY_NAME: dict[MediaKind, tuple[str, ...]] = {
    MediaKind.IMAGE: (
        "jpg",
        "jpeg",
        "jpe",
        "jfif",
        "png",
        "webp",
        "gif",
        "bmp",
        "dib",
        "tif",
        "tiff",
        "heic",
        "heif",
        "hif",
        "avif",
    ),
    MediaKind.AUDIO: (
        "wav",
        "mp3",
        "m4a",
        "m4b",
        "aac",
        "ogg",
        "oga",
        "opus",
        "flac",
        "weba",
        "wma",
        "aif",
        "aiff",
        "amr",
        "caf",
        "mka",
        "au",
        "mp2",
        "ac3",
    ),
    MediaKind.VIDEO: (
        "webm",
        "mp4",
        "m4v",
        "mkv",
        "mov",
        "avi",
        "mpg",
        "mpeg",
        "ts",
        "mts",
        "m2ts",
        "wmv",
        "flv",
        "3gp",
        "ogv",
        "vob",
    ),
    MediaKind.TEXT: ("txt", "text", "md", "markdown", "csv", "tsv", "html", "htm", "json", "srt", "vtt", "log"),
}
_KINDS = {suffix: kind for kind, suffixes in _BY_NAME.items() for suffix in suffixes}
_IMAGE_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis"})
_AUDIO_BRANDS = frozenset({b"M4A ", b"M4B ", b"M4P ", b"F4A ", b"F4B "})
_CONTROLS = frozenset(range(32)) - frozenset(b"\t\n\r\f\x1b")


def kind_of(head: bytes, name: str) -> MediaKind:
    """What a file is, from its first `HEAD` bytes and its name (any path; only what follows the last dot counts)."""
    named = _KINDS.get(name.rpartition(".")[2].lower(), MediaKind.UNKNOWN)
    # Prose may begin with "BM" or "ID3": a text by name and by look is a text.
    if named is MediaKind.TEXT and looks_like_text(head):
        return MediaKind.TEXT
    found = _by_content(head, named)
    if found is not MediaKind.UNKNOWN:
        return found
    if head and "." not in name.rpartition("/")[2].lstrip(".") and looks_like_text(head):
        return MediaKind.TEXT  # README, notes: who gives a file no ending mostly writes text
    # A name alone makes no text: what holds control characters is something else under a wrong name.
    return MediaKind.UNKNOWN if named is MediaKind.TEXT else named


def looks_like_text(head: bytes) -> bool:
    """Whether bytes can be the start of a text: UTF-16 and UTF-32 by their marks, else without control characters."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")):
        return True
    return not _CONTROLS.intersection(head)


def _by_content(head: bytes, named: MediaKind) -> MediaKind:
    if _is_image(head):
        return MediaKind.IMAGE
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in _IMAGE_BRANDS:
            return MediaKind.IMAGE
        return MediaKind.AUDIO if brand in _AUDIO_BRANDS else MediaKind.VIDEO
    if head.startswith(b"RIFF") and head[8:12] in (b"WAVE", b"AVI "):
        return MediaKind.AUDIO if head[8:12] == b"WAVE" else MediaKind.VIDEO
    if head.startswith(b"OggS"):
        return MediaKind.VIDEO if b"\x80theora" in head[:512] else MediaKind.AUDIO
    if head.startswith(b"\x1aE\xdf\xa3"):  # Matroska and WebM tell sound from film only in their tracks
        return MediaKind.AUDIO if named is MediaKind.AUDIO else MediaKind.VIDEO
    if head.startswith(b"0&\xb2u\x8ef\xcf\x11"):  # ASF
        return MediaKind.AUDIO if named is MediaKind.AUDIO else MediaKind.VIDEO
    if head.startswith((b"fLaC", b"RF64", b"caff\x00\x01", b"#!AMR", b".snd\x00", b"ADIF", b"\x0bw")):
        return MediaKind.AUDIO
    if head.startswith(b"FORM") and head[8:12] in (b"AIFF", b"AIFC"):
        return MediaKind.AUDIO
    if head.startswith(b"ID3") and len(head) > 9 and head[3] < 5 and not any(byte & 0x80 for byte in head[6:10]):
        return MediaKind.AUDIO
    if _is_mpeg_audio(head):
        return MediaKind.AUDIO
    if head.startswith((b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"FLV\x01")):
        return MediaKind.VIDEO
    if len(head) > 376 and head[0] == head[188] == head[376] == 0x47:  # MPEG transport stream
        return MediaKind.VIDEO
    return MediaKind.UNKNOWN


def _is_image(head: bytes) -> bool:
    if head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")):
        return True
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0\x08\0", b"MM\0+\0\x08")):
        return True
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return True
    # "BM" alone is too little: the size of the header that follows is one of few.
    return head.startswith(b"BM") and head[14:18] in _BMP_HEADERS


_BMP_HEADERS = frozenset(size.to_bytes(4, "little") for size in (12, 16, 40, 52, 56, 64, 108, 124))


def _is_mpeg_audio(head: bytes) -> bool:
    """An MPEG audio or ADTS frame header: sync, and no field holding a reserved value."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    if layer == 0:  # ADTS
        return head[1] & 0xF6 == 0xF0 and head[2] >> 2 & 15 < 13
    return version != 1 and head[2] >> 4 != 15 and head[2] >> 2 & 3 != 3
