"""Chinese in simplified or traditional characters, whichever of them Whisper wrote."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import opencc

from batch.media.language import chinese_variant

CONFIGURATIONS = {"Hans": "t2s", "Hant": "s2t", "TW": "s2tw", "HK": "s2hk"}
"""OpenCC's names of what leads to a variant's characters."""


class ChineseScript:
    """Converts texts to the characters of one variant."""

    def __init__(self, tag: str) -> None:
        """`tag`: a language tag such as zh-TW; one that says nothing of characters leaves texts as they are."""
        variant = chinese_variant(tag)
        self._converter = _converter(CONFIGURATIONS[variant]) if variant else None

    @property
    def changes(self) -> bool:
        """Whether texts are converted at all."""
        return self._converter is not None

    def convert(self, text: str) -> str:
        """The text in this variant's characters."""
        return text if self._converter is None else str(self._converter.convert(text))

    def convert_parts(self, parts: Sequence[str]) -> list[str]:
        """The parts of one text, each converted as what stands around it demands."""
        whole = "".join(parts)
        converted = self.convert(whole)
        if len(converted) != len(whole):
            return [self.convert(part) for part in parts]
        pieces, at = [], 0
        for part in parts:
            pieces.append(converted[at : at + len(part)])
            at += len(part)
        return pieces


@cache
def _converter(configuration: str) -> Any:
    return opencc.OpenCC(configuration)
