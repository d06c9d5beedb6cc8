"""The one table of scripts that are written without spaces between words."""

from __future__ import annotations

import unicodedata

UNSPACED_RANGES: tuple[tuple[int, int], ...] = (
    (0x0E00, 0x0FFF),  # Thai, Lao, Tibetan
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # Chinese iteration mark and zero
    (0x3040, 0x30FF),  # kana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Chinese characters
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),  # kana of half width
    (0x20000, 0x3FFFF),
)
"""First and last code point of each range."""

UNSPACED_CLASS = "".join(f"{chr(first)}-{chr(last)}" for first, last in UNSPACED_RANGES)
"""The inside of a regular expression's character class that matches one such character."""

UNSPACED_MARKS = "".join(
    chr(code)
    for first, last in UNSPACED_RANGES
    for code in range(first, min(last, 0x30FF) + 1)
    if unicodedata.category(chr(code)).startswith("M")
)
"""The vowel and tone signs among them, which belong to the character before."""


def is_unspaced(character: str) -> bool:
    """Whether a character belongs to a script that is written without spaces between words."""
    code = ord(character)
    return any(first <= code <= last for first, last in UNSPACED_RANGES)
