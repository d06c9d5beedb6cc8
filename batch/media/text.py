"""Text files in: bytes to str, in the encoding that they were written in."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from typing import NamedTuple

import chardet
from chardet import EncodingEra

from batch.errors import UnsupportedMedia

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte order marks; UTF-32's before UTF-16's, which it begins with."""
_SAMPLE_BYTES = 1 << 16
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\v\f\r\x1b"))
_ISO_2022 = re.compile(rb"\x1b\$[@AB]|\x1b\$\)|\x1b\([BJI]")
"""Escapes that switch to Japanese, Korean or Chinese in a text of 7-bit bytes."""
_NARROWER = {
    "gb18030": ("gb2312", "gbk"),
    "cp949": ("euc-kr",),
    "big5hkscs": ("big5",),
    "cp932": ("shift_jis",),
    "cp1252": ("iso-8859-1",),
    "cp1254": ("iso-8859-9",),
    "cp874": ("tis-620",),
    "koi8-u": ("koi8-r",),
}
"""A text is said to be in the narrowest encoding that reads it the same."""
_FAMILY_OF = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
    "cp950": "big5hkscs",
    "shift_jis": "cp932",
    "shift_jisx0213": "cp932",
    "shift_jis_2004": "cp932",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
}
_EAST_ASIAN = {
    "gb18030": ("gb2312", ((0xA1, 0xA3), (0xB0, 0xD7))),
    "big5hkscs": ("big5", ((0xA1, 0xA3), (0xA4, 0xC6))),
    "cp949": ("euc_kr", ((0xA1, 0xA3), (0xB0, 0xC8))),
    "euc_jp": ("euc_jp", ((0xA1, 0xA5), (0xB0, 0xCF))),
}
"""By encoding: a standard, and the first bytes of its punctuation, kana and everyday characters there."""
_OTHER_SCRIPT = re.compile(r"cp125[13567]|koi8|iso8859-(5|6|7|8)$|cp874|gb|big5|euc|cp9|shift|johab", re.ASCII)
"""Encodings of scripts whose words are whole runs of bytes above 127."""
_ONE_BYTE_SCRIPT = re.compile(r"cp125[13567]|koi8|iso8859-(5|6|7|8)$", re.ASCII)
"""Those of them that are written with one byte a letter."""
_RARE_LATIN = frozenset({"cp1257", "cp1258", "iso8859-3", "iso8859-4", "iso8859-10", "iso8859-13", "iso8859-14", "iso8859-16"})
"""What a few accents are taken for though they are hardly ever met."""
_WESTERN_LETTERS = "éèêëàâäáãåæçñöøóòôõüúùûíìîïßÿÉÈÊÀÂÄÁÃÅÆÇÑÖØÓÔÕÜÚÍÎœ’“”–—€°«»¿¡"
_RUN = re.compile(rb"[\x80-\xff]+")
_HIGH = re.compile(rb"[\x80-\xff]")
_WORD = re.compile(rb"[A-Za-z\x80-\xff]+")
_SCRIPT_BLOCK_SHARE = 0.5
_COMMON_SHARE = 0.8


class DecodedText(NamedTuple):
    """A text, and the encoding that it was in."""

    text: str
    """Without a byte order mark; line ends as \\n."""
    encoding: str
    """A name that Python knows, the narrowest that holds the text."""
    is_guessed: bool
    """The bytes do not say it themselves: by a mark, by being valid UTF-8, or by a declaration."""


def decode_text(data: bytes, name: str) -> str:
    """The text of a file's bytes. Raises UnsupportedMedia, naming the file, for what is no text."""
    return read_encoded(data, name).text


def read_encoded(data: bytes, name: str, declared: str | None = None) -> DecodedText:
    """The text of a file's bytes and its encoding: by byte order mark, as UTF-8, as `declared` (by HTML, say), or guessed.

    Raises UnsupportedMedia, naming the file, for what is no text.
    """
    text, encoding, is_guessed = _read(data, name, declared)
    return DecodedText(text.replace("\r\n", "\n").replace("\r", "\n"), encoding, is_guessed)


def _read(data: bytes, name: str, declared: str | None) -> DecodedText:
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return DecodedText(data[len(mark) :].decode(encoding, "replace"), encoding, False)
    is_plain = not _has_controls(data[:_SAMPLE_BYTES])
    if is_plain and not _ISO_2022.search(data[:_SAMPLE_BYTES]):
        try:
            return DecodedText(data.decode("utf-8"), "utf-8", False)
        except UnicodeDecodeError:
            pass
    if is_plain and declared and (text := _strictly(data, declared)) is not None:
        return DecodedText(text, codecs.lookup(declared).name, False)
    if (wide := _unmarked_wide(data, is_plain)) is not None:
        return wide
    if not is_plain:
        raise UnsupportedMedia(f"{name} holds binary data, not text: drop it under its real file name ending.")
    return _guess(data)


def _has_controls(sample: bytes) -> bool:
    """A zero byte, or more than a few control characters, is never in text of an 8-bit encoding."""
    return b"\0" in sample or len(sample.translate(None, _CONTROLS)) < 0.97 * len(sample)


def may_be_wide_text(head: bytes) -> bool:
    """Whether a file's first bytes may be UTF-16 or UTF-32 without a mark."""
    return _unmarked_wide(head[: len(head) & ~3], not _has_controls(head)) is not None


# -- UTF-16 and UTF-32 without a mark


def _unmarked_wide(data: bytes, is_plain: bool) -> DecodedText | None:
    """UTF-16 or UTF-32 without a mark: told by the half of each unit that says the script, else by common characters."""
    sample = data[: _SAMPLE_BYTES & ~3]
    if len(data) % 4 == 0 and sample.count(0) * 2 >= len(sample) > 0:
        for encoding in ("utf-32-le", "utf-32-be"):
            if (text := _strictly(data, encoding)) is not None and _is_readable(text):
                return DecodedText(text, encoding, True)
    if len(data) % 2 or len(data) < 4:
        return None
    shares = {"utf-16-be": _script_share(sample[0::2]), "utf-16-le": _script_share(sample[1::2])}
    best, other = sorted(shares, key=lambda encoding: shares[encoding], reverse=True)
    is_clear = shares[best] >= _SCRIPT_BLOCK_SHARE and shares[other] <= _SCRIPT_BLOCK_SHARE / 2
    candidates = [best] if is_clear else ["utf-16-le", "utf-16-be"]
    scores: dict[str, float] = {}
    for encoding in candidates:
        text = _strictly(data, encoding)
        if text is not None and _is_readable(text):
            scores[encoding] = 1.0 if is_clear else _common_share(text[: _SAMPLE_BYTES // 2])
    if not scores or (is_plain and not is_clear):
        return None  # what could be 8-bit text is left to those who know the frequencies of letters
    encoding = max(scores, key=lambda encoding: scores[encoding])
    if scores[encoding] < _COMMON_SHARE:
        return None
    return DecodedText(data.decode(encoding), encoding, True)


def _script_share(halves: bytes) -> float:
    """How many of these bytes are one of two values below 32: as upper halves of UTF-16 units, an alphabet and spaces."""
    counts = sorted((halves.count(value) for value in range(32)), reverse=True)
    return sum(counts[:2]) / max(1, len(halves))


def _is_readable(text: str) -> bool:
    """Whether nearly all characters are assigned, and neither control nor private ones."""
    sample = text[:_SAMPLE_BYTES]
    strange = sum(not (char.isprintable() or char.isspace()) for char in sample)
    return strange * 50 <= len(sample)


def _common_share(text: str) -> float:
    """How many characters are everyday ones of Chinese, Japanese or Korean, or ASCII."""
    counts = Counter(text)
    common = sum(n for char, n in counts.items() if _is_common(char))
    return common / max(1, len(text))


def _is_common(char: str) -> bool:
    if char < "\x7f" or "\u3000" <= char <= "\u30ff" or "\uac00" <= char <= "\ud7a3" or "\uff00" <= char <= "\uffef":
        return True
    for encoding, first, last in (("gb2312", 0xB0, 0xD7), ("big5", 0xA4, 0xC6), ("euc_jp", 0xB0, 0xCF)):
        try:
            code = char.encode(encoding)
        except UnicodeEncodeError:
            continue
        if len(code) == 2 and first <= code[0] <= last:  # each standard's first level: the characters in daily use
            return True
    return False


# -- 8-bit and East Asian encodings


def _guess(data: bytes) -> DecodedText:
    encoding = _detected(data)
    if encoding.startswith("utf") or encoding == "ascii":
        encoding = "cp1252"
    family = _corrected(_FAMILY_OF.get(encoding, encoding), data[:_SAMPLE_BYTES])
    text = _strictly(data, family)
    if text is None:
        return DecodedText(data.decode(family, "replace"), family, True)
    for candidate in _NARROWER.get(family, ()):
        if _strictly(data, candidate) == text:
            return DecodedText(text, candidate, True)
    return DecodedText(text, family, True)


def _detected(data: bytes) -> str:
    """The detector's answer; of a text whose words have plain letters too, the likeliest alphabet with accents."""
    era = EncodingEra.MODERN_WEB | EncodingEra.LEGACY_ISO
    first = codecs.lookup(chardet.detect(data, encoding_era=era)["encoding"] or "cp1252").name
    sample = data[:_SAMPLE_BYTES]
    if not _ONE_BYTE_SCRIPT.match(first) or _is_sparse(sample) or not _has_mixed_words(sample):
        return first
    others = [codecs.lookup(other["encoding"] or "cp1252").name for other in chardet.detect_all(data, encoding_era=era)]
    return next((name for name in others if not _OTHER_SCRIPT.match(name)), first)


def _has_mixed_words(sample: bytes) -> bool:
    """Whether nearly all words with letters above 127 have plain ones too, which those of another script never have."""
    words = [word for word in _WORD.findall(sample) if _HIGH.search(word)]
    return 10 * sum(not _RUN.fullmatch(word) for word in words) >= 8 * len(words) > 0


def _corrected(family: str, sample: bytes) -> str:
    """The detector's answer, but where little text led it astray."""
    if _OTHER_SCRIPT.match(family) and _is_sparse(sample):
        return "cp1252"
    if family in _EAST_ASIAN:
        shares = {other: _share_of_standard(sample, other) for other in _EAST_ASIAN}
        best = max(shares, key=lambda other: shares[other])
        return best if shares[family] < _COMMON_SHARE and shares[best] >= 0.95 else family
    if family in _RARE_LATIN and len(_HIGH.findall(sample)) <= 3:
        text = _strictly(sample, "cp1252")
        if text is not None and {char for char in text if char > "\x7f"} <= set(_WESTERN_LETTERS):
            return "cp1252"
    return family


def _is_sparse(sample: bytes) -> bool:
    """Whether letters above 127 stand alone between plain ones, as accents do, and as no word of another script does."""
    lengths = [len(run) for run in _RUN.findall(sample)]
    letters = len(sample.translate(None, b" \n\r\t"))
    return 1 in lengths and max(lengths) <= 2 and sum(lengths) <= 0.4 * letters


def _share_of_standard(sample: bytes, family: str) -> float:
    """How many characters that are not ASCII belong to the everyday ones of an encoding's standard; 0 where it cannot be."""
    codec, ranges = _EAST_ASIAN[family]
    text = _strictly(sample, family) if len(sample) < _SAMPLE_BYTES else sample.decode(family, "ignore")
    wide = [char for char in text or "" if char > "\x7f"]
    common = 0
    for char in wide:
        code = char.encode(codec, "ignore")
        common += len(code) == 2 and any(first <= code[0] <= last for first, last in ranges)
    return common / len(wide) if wide else 0.0


def _strictly(data: bytes, encoding: str) -> str | None:
    """The text, or None where the bytes are not in the encoding, or Python knows none of this name."""
    try:
        return data.decode(encoding)
    except (UnicodeDecodeError, LookupError, ValueError):
        return None


def charset_of_html(data: bytes) -> str | None:
    """The encoding that a page declares in its first kilobyte, when it is one of text."""
    match = re.search(rb"""charset\s*=\s*["']?\s*([\w:.-]{1,40})""", data[:2048], re.IGNORECASE)
    if match is None:
        return None
    label = match[1].decode("ascii")
    try:
        name = codecs.lookup(label).name
    except LookupError:
        return None
    return None if name.startswith(("utf-16", "utf-32")) else _HTML_LABELS.get(name, name)


_HTML_LABELS = {"iso8859-1": "cp1252", "ascii": "cp1252", "gb2312": "gb18030", "gbk": "gb18030", "euc_kr": "cp949"}
"""What browsers read these labels as."""
