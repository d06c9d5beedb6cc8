"""Text files in: bytes to str, whatever they were written with."""

from __future__ import annotations

import codecs
from pathlib import Path

from charset_normalizer import from_bytes

from batch.errors import TooLarge, UnsupportedMedia

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte order marks; UTF-32's before UTF-16's, which it begins with."""
_SAMPLE = 1 << 16
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\v\f\r\x1b"))


def read_text(path: Path, most_bytes: int) -> str:
    """The text of a file, without its byte order mark, line ends as \\n.

    Raises TooLarge above `most_bytes`, UnsupportedMedia for a binary file; both name the file.
    """
    with path.open("rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise TooLarge(f"{path.name} is larger than the {most_bytes} bytes a text file may have (limits.text_bytes).")
    return decode_text(data, path.name)


def decode_text(data: bytes, name: str) -> str:
    """The text of some bytes: by byte order mark, as UTF-8, as bare UTF-16, as GB 18030 or by guessing."""
    return _decode(data, name).replace("\r\n", "\n").replace("\r", "\n")


def _decode(data: bytes, name: str) -> str:
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    if not _looks_binary(data[:_SAMPLE]):
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return _guess(data, name)
    if (text := _bare_utf16(data)) is not None:
        return text
    raise UnsupportedMedia(f"{name} holds binary data, not text: drop it under its real file name ending.")


def _looks_binary(sample: bytes) -> bool:
    """A zero byte, or more than a few control characters, is never in text of an 8-bit encoding."""
    return b"\0" in sample or len(sample.translate(None, _CONTROLS)) < 0.97 * len(sample)


def _bare_utf16(data: bytes) -> str | None:
    """UTF-16 without a mark: nearly all of the zero bytes of its spaces and line ends stand on one side."""
    if len(data) % 2:
        return None
    sample = data[:_SAMPLE]
    high, low = sample[1::2].count(0), sample[0::2].count(0)
    if max(high, low) < len(sample) // 40 or min(high, low) * 20 > max(high, low):
        return None
    try:
        text = data.decode("utf-16-le" if high > low else "utf-16-be")
    except UnicodeDecodeError:
        return None
    strange = sum(not (c.isprintable() or c.isspace()) for c in text[:_SAMPLE])
    return text if strange * 50 <= len(text[:_SAMPLE]) else None


def _guess(data: bytes, name: str) -> str:
    """An 8-bit or East Asian encoding. GB 18030 decodes nearly anything, so it must also look Chinese."""
    try:
        text = data.decode("gb18030")
    except UnicodeDecodeError:
        text = ""
    wide = [c for c in text[:_SAMPLE] if c > "\x7f"]
    if wide and sum(map(_common_in_chinese, wide)) >= 0.9 * len(wide):
        return text
    best = from_bytes(data[: 1 << 20]).best()
    if best is None:
        raise UnsupportedMedia(f"{name} is in no text encoding known here: save it as UTF-8.")
    return data.decode(best.encoding, "replace")


def _common_in_chinese(char: str) -> bool:
    """GB 2312's first level (the 3,755 everyday characters), and the punctuation that stands between them."""
    try:
        code = char.encode("gb2312")
    except UnicodeEncodeError:
        return False
    return len(code) == 2 and (0xA1 <= code[0] <= 0xA3 or 0xB0 <= code[0] <= 0xD7)
