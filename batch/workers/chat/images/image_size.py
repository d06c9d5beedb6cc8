"""Which picture sizes a projector takes: what lies beyond them would end the process inside native code."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from gguf import GGUFReader

from batch.errors import BadRequest

MAX_ASPECT_RATIO = 200
"""A picture that is longer than so many times its width is refused where the projector's own bound is not known."""
_GEMMA4_TYPES = ("gemma4v", "gemma4uv")
_GEMMA4_MIN_TOKENS = 70
_GEMMA4_MAX_TOKENS = 1120
_GEMMA4_MERGE = 3
"""Patches a token along each side, where the file does not say."""


@dataclass(frozen=True, slots=True)
class ImageSizeLimits:
    """The sizes, in pixels, that a projector's preprocessor makes of a picture. All 0: not known."""

    align: int = 0
    """Both sides become multiples of it."""
    max_side: int = 0
    """Longest side for which the projector has positions."""
    min_area: int = 0
    max_area: int = 0

    @classmethod
    def read(cls, path: Path) -> ImageSizeLimits:
        """The limits that stand in a projector's GGUF file."""
        reader = GGUFReader(path)

        def number(key: str, default: int) -> int:
            field = reader.get_field(f"clip.vision.{key}")
            return default if field is None else int(field.contents())

        types = [reader.get_field(key) for key in ("clip.vision.projector_type", "clip.projector_type")]
        projector = next((str(field.contents()) for field in types if field is not None), "")
        table = next((t for t in reader.tensors if t.name == "v.position_embd.weight"), None)
        if projector not in _GEMMA4_TYPES or table is None:
            return cls()
        patch, merge = number("patch_size", 16), number("projector.scale_factor", _GEMMA4_MERGE)
        align = patch * merge
        position = align if projector == "gemma4uv" else patch
        max_side = min(int(table.shape[1]) * position, _GEMMA4_MAX_TOKENS * align) // align * align
        return cls(align, max_side, _GEMMA4_MIN_TOKENS * align**2, _GEMMA4_MAX_TOKENS * align**2)

    @property
    def max_tokens(self) -> int:
        """Most tokens of a picture; 0: not known."""
        return self.max_area // self.align**2 if self.align else 0

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """The size to give a picture before the preprocessor sees it: nearly always its own.

        A very long one is squeezed to what the projector has positions for. Raises BadRequest where that is not known
        and the picture is more than MAX_ASPECT_RATIO times as long as wide.
        """
        long, short = max(width, height), min(width, height)
        if not self.align:
            if long > MAX_ASPECT_RATIO * short:
                raise BadRequest(
                    f"The image ({width} x {height} pixels) is more than {MAX_ASPECT_RATIO} times as long as it is wide: "
                    "cut it into parts."
                )
            return width, height
        after_long, after_short = self._preprocessed(long, short)
        if after_long <= self.max_side and after_long * after_short <= self.max_area:
            return width, height
        align, side = self.align, self.max_side
        least = math.ceil(self.min_area / side / align) * align
        most = self.max_area // side // align * align
        after_short = max(least, min(most, round(short * side / long / align) * align))
        return (side, after_short) if width >= height else (after_short, side)

    def _preprocessed(self, long: int, short: int) -> tuple[int, int]:
        """The sides that the preprocessor aims at: the same ratio, aligned, between the two areas."""
        align = self.align
        sides = [max(align, round(side / align) * align) for side in (long, short)]
        area = sides[0] * sides[1]
        if area > self.max_area:
            scale = math.sqrt(self.max_area / (long * short))
            sides = [max(align, math.floor(side * scale / align) * align) for side in (long, short)]
        elif area < self.min_area:
            scale = math.sqrt(self.min_area / (long * short))
            sides = [math.ceil(side * scale / align) * align for side in (long, short)]
        return sides[0], sides[1]
