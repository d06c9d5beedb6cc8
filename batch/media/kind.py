"""What a file is, judged by its content first and its name second."""

from __future__ import annotations

from batch.media.formats import FORMATS, KIND_BY_SUFFIX
from batch.media.formats import MediaKind as MediaKind  # where the other rooms look for it

HEAD_BYTES = 4096
"""How many first bytes `kind_of` wants to see."""

_IMAGE_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis"})
_AUDIO_BRANDS = frozenset({b"M4A ", b"M4B ", b"M4P ", b"F4A ", b"F4B "})
_ZIP = b"PK\x03\x04"
_CONTROLS = frozenset(range(32)) - frozenset(b"\t\n\r\f\x1b")
_BMP_HEADERS = frozenset(size.to_bytes(4, "little") for size in (12, 16, 40, 52, 56, 64, 108, 124))
_SIGNATURES = tuple((signature, row.kind) for row in FORMATS for signature in row.signatures)


def kind_of(head: bytes, name: str) -> MediaKind:
    """What a file is, from its first `HEAD_BYTES` bytes and its name (any path; only what follows the last dot counts)."""
    kind_by_name = KIND_BY_SUFFIX.get(name.rpartition(".")[2].lower(), MediaKind.UNKNOWN)
    # Prose may begin with "BM", "ID3" or "MAC ": a text by name and by look is a text.
    if kind_by_name is MediaKind.TEXT and looks_like_text(head):
        return MediaKind.TEXT
    kind = _kind_by_content(head, kind_by_name)
    if kind is not MediaKind.UNKNOWN:
        return kind
    if is_pdf(head) or (kind_by_name is MediaKind.DOCUMENT and head.startswith(_ZIP)):
        return MediaKind.DOCUMENT
    if kind_by_name is MediaKind.DOCUMENT:  # a name alone makes no document
        return MediaKind.UNKNOWN
    if head and "." not in name.rpartition("/")[2].lstrip(".") and looks_like_text(head):
        return MediaKind.TEXT  # README, notes: who gives a file no ending mostly writes text
    # A name alone makes no text: what holds control characters is something else under a wrong name.
    return MediaKind.UNKNOWN if kind_by_name is MediaKind.TEXT else kind_by_name


def is_pdf(head: bytes) -> bool:
    """Whether a file's first bytes are a PDF's; its mark may stand behind some other bytes."""
    return b"%PDF-" in head[:1024]


def looks_like_text(head: bytes) -> bool:
    """Whether bytes can be the start of a text: by the marks or the look of UTF-16 and UTF-32, else without controls."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")):
        return True
    if not _CONTROLS.intersection(head):
        return True
    from batch.media.text import may_be_wide_text  # here, as its tables are large and few files need them

    return may_be_wide_text(head)


def _kind_by_content(head: bytes, kind_by_name: MediaKind) -> MediaKind:
    for signature, kind in _SIGNATURES:
        if all(head[offset : offset + len(part)] == part for offset, part in signature):
            return kind
    # "BM" alone is too little: the size of the header that follows is one of few.
    if head.startswith(b"BM") and head[14:18] in _BMP_HEADERS:
        return MediaKind.IMAGE
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in _IMAGE_BRANDS:
            return MediaKind.IMAGE
        return MediaKind.AUDIO if brand in _AUDIO_BRANDS else MediaKind.VIDEO
    if head.startswith(b"OggS"):
        return MediaKind.VIDEO if b"\x80theora" in head[:512] else MediaKind.AUDIO
    if head.startswith((b"\x1aE\xdf\xa3", b"0&\xb2u\x8ef\xcf\x11")):
        # Matroska, WebM and Windows Media tell sound from film only in their tracks
        return MediaKind.AUDIO if kind_by_name is MediaKind.AUDIO else MediaKind.VIDEO
    if head.startswith(b"ID3") and len(head) > 9 and head[3] < 5 and not any(byte & 0x80 for byte in head[6:10]):
        return MediaKind.AUDIO
    if _is_mpeg_audio(head):
        return MediaKind.AUDIO
    for first, step in ((0, 188), (4, 192)):  # MPEG transport stream, as it is sent and as cameras record it
        if len(head) > first + 2 * step and head[first] == head[first + step] == head[first + 2 * step] == 0x47:
            return MediaKind.VIDEO
    return MediaKind.UNKNOWN


def _is_mpeg_audio(head: bytes) -> bool:
    """An MPEG audio or ADTS frame header: sync, and no field holding a reserved value."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    if layer == 0:  # ADTS
        return head[1] & 0xF6 == 0xF0 and head[2] >> 2 & 15 < 13
    return version != 1 and head[2] >> 4 != 15 and head[2] >> 2 & 3 != 3
