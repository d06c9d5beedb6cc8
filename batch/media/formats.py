"""The one table of file formats: what a file is by its first bytes and its name, and which reader opens it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

Signature = tuple[tuple[int, bytes], ...]
"""Offsets and the bytes that stand there; all of them have to."""


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
    DOCUMENT = "document"
    """Is read as text, or page by page as pictures; its results are a text's."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class FileFormat:
    """One row of the table."""

    name: str
    """As people know it."""
    kind: MediaKind
    suffixes: tuple[str, ...]
    """Endings of file names, lower case, without the dot."""
    reader: str = ""
    """Pillow's name of its plugin for a picture, FFmpeg's of its demuxer for sound and films."""
    signatures: tuple[Signature, ...] = ()
    """Any of them tells the format. Empty where `kind_of` needs more than fixed bytes."""


def _starts(*beginnings: bytes) -> tuple[Signature, ...]:
    return tuple(((0, beginning),) for beginning in beginnings)


def _row(kind: MediaKind, name: str, suffixes: str, reader: str, *signatures: Signature) -> FileFormat:
    return FileFormat(name, kind, tuple(suffixes.split()), reader, signatures)


_I, _A, _V, _T, _D = MediaKind.IMAGE, MediaKind.AUDIO, MediaKind.VIDEO, MediaKind.TEXT, MediaKind.DOCUMENT

# Playlists (hls, concat, dash, sdp) are left out: they make FFmpeg open other files and addresses that a client names.
# Among Pillow's other readers are some that start programs (EPS) or are hardly ever looked at.
FORMATS: tuple[FileFormat, ...] = (
    _row(_I, "JPEG", "jpg jpeg jpe jfif", "JPEG", *_starts(b"\xff\xd8\xff")),
    _row(_I, "PNG", "png apng", "PNG", *_starts(b"\x89PNG\r\n\x1a\n")),
    _row(_I, "WebP", "webp", "WEBP", ((0, b"RIFF"), (8, b"WEBP"))),
    _row(_I, "GIF", "gif", "GIF", *_starts(b"GIF87a", b"GIF89a")),
    _row(_I, "BMP", "bmp", "BMP"),
    _row(_I, "BMP without a file header", "dib", "DIB"),
    _row(_I, "TIFF", "tif tiff", "TIFF", *_starts(b"II*\0", b"MM\0*", b"II+\0\x08\0", b"MM\0+\0\x08")),
    _row(_I, "HEIC", "heic heif hif", "HEIF"),
    _row(_I, "AVIF", "avif", "AVIF"),
    _row(_A, "WAV", "wav wave bwf rf64", "wav", ((0, b"RIFF"), (8, b"WAVE")), *_starts(b"RF64", b"BW64")),
    _row(_A, "Wave64", "w64", "w64", *_starts(b"riff\x2e\x91\xcf\x11")),
    _row(_A, "MP3", "mp3 mp2 mpga mpa", "mp3"),
    _row(_A, "AAC", "aac adts", "aac", *_starts(b"ADIF")),
    _row(_A, "AAC in LATM", "loas latm", "loas"),
    _row(_A, "M4A", "m4a m4b m4r f4a", "mov"),
    _row(_A, "FLAC", "flac", "flac", *_starts(b"fLaC")),
    _row(_A, "Ogg", "ogg oga opus spx", "ogg"),
    _row(_A, "Matroska sound", "mka weba", "matroska"),
    _row(_A, "Windows Media sound", "wma", "asf"),
    _row(_A, "AIFF", "aif aiff aifc afc", "aiff", ((0, b"FORM"), (8, b"AIFF")), ((0, b"FORM"), (8, b"AIFC"))),
    _row(_A, "Core Audio", "caf", "caf", *_starts(b"caff\x00\x01")),
    _row(_A, "AMR", "amr", "amr", *_starts(b"#!AMR")),
    _row(_A, "AU", "au snd", "au", *_starts(b".snd\x00")),
    _row(_A, "AC-3", "ac3", "ac3", *_starts(b"\x0bw")),
    _row(_A, "E-AC-3", "eac3 ec3", "eac3"),
    _row(_A, "DTS", "dts", "dts", *_starts(b"\x7f\xfe\x80\x01")),
    _row(_A, "WavPack", "wv", "wv", *_starts(b"wvpk")),
    _row(_A, "Monkey's Audio", "ape", "ape", *_starts(b"MAC ")),
    _row(_A, "True Audio", "tta", "tta", *_starts(b"TTA1")),
    _row(_A, "Musepack", "mpc", "mpc", *_starts(b"MP+")),
    _row(_A, "Musepack 8", "mp+ mpp", "mpc8", *_starts(b"MPCK")),
    _row(_A, "TAK", "tak", "tak", *_starts(b"tBaK")),
    _row(_A, "DSD", "dsf", "dsf", *_starts(b"DSD ")),
    _row(_A, "ATRAC", "oma aa3", "oma", *_starts(b"ea3\x03", b"EA3\x01")),
    _row(_A, "RealAudio", "ra", "rm", *_starts(b".ra\xfd")),
    _row(_A, "Creative Voice", "voc", "voc", *_starts(b"Creative Voice File\x1a")),
    _row(_A, "8SVX", "iff 8svx svx", "iff", ((0, b"FORM"), (8, b"8SVX"))),
    _row(_V, "MP4", "mp4 m4v f4v", "mov"),
    _row(_V, "QuickTime", "mov qt", "mov"),
    _row(_V, "3GP", "3gp 3g2 3gpp 3gpp2", "mov"),
    _row(_V, "Matroska", "mkv mk3d", "matroska"),
    _row(_V, "WebM", "webm", "matroska"),
    _row(_V, "AVI", "avi", "avi", ((0, b"RIFF"), (8, b"AVI "))),
    _row(_V, "Windows Media", "wmv asf", "asf"),
    _row(_V, "MPEG", "mpg mpeg mpe vob", "mpeg", *_starts(b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3")),
    _row(_V, "MPEG transport stream", "ts mts m2ts m2t", "mpegts"),
    _row(_V, "Flash", "flv", "flv", *_starts(b"FLV\x01")),
    _row(_V, "Ogg film", "ogv ogm", "ogg"),
    _row(_V, "RealMedia", "rm rmvb", "rm", *_starts(b".RMF")),
    _row(_V, "MXF", "mxf", "mxf", *_starts(b"\x06\x0e+4\x02\x05\x01\x01\r\x01\x02\x01\x01\x02")),
    _row(_V, "NUT", "nut", "nut", *_starts(b"nut/multimedia container\0")),
    _row(_V, "GXF", "gxf", "gxf", *_starts(b"\x00\x00\x00\x00\x01\xbc")),
    _row(_T, "text", "txt text", ""),
    _row(_T, "Markdown", "md markdown", ""),
    _row(_T, "tables", "csv tsv", ""),
    _row(_T, "HTML", "html htm", ""),
    _row(_T, "JSON", "json jsonl ndjson", ""),
    _row(_T, "subtitles", "srt vtt", ""),
    _row(_T, "logs", "log", ""),
    _row(_D, "PDF", "pdf", ""),
    _row(_D, "Word", "docx", ""),
)

KIND_BY_SUFFIX = {suffix: row.kind for row in FORMATS for suffix in row.suffixes}

SOUND_DEMUXERS = tuple(dict.fromkeys(row.reader for row in FORMATS if row.kind in (_A, _V)))
"""FFmpeg's readers that sound and films are opened with; each reads one self-contained file."""

PICTURE_PLUGINS = tuple(dict.fromkeys(row.reader for row in FORMATS if row.kind is _I))
"""Pillow's readers that pictures are opened with."""
