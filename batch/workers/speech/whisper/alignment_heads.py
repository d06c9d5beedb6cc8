"""Which attention heads of a Whisper model follow the sound, so that they can tell when a word was said."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AlignmentHeads:
    """A model's heads, as whisper.cpp numbers its presets."""

    preset: int
    lags_s: tuple[float, ...]
    """Seconds by which the heads are late. One where that was measured (against hand-set times); else candidates, of
    which the one that fits a recording best is taken."""


_UNMEASURED_LAGS_S = (0.0, 0.06, 0.12)
_MULTILINGUAL_VOCABULARY, _LARGE_V3_VOCABULARY = 51_865, 51_866

# By layers and width of the text decoder; English, multilingual.
_SIZES: dict[tuple[int, int], tuple[AlignmentHeads, AlignmentHeads]] = {
    (4, 384): (AlignmentHeads(3, (0.11,)), AlignmentHeads(4, _UNMEASURED_LAGS_S)),
    (6, 512): (AlignmentHeads(5, _UNMEASURED_LAGS_S), AlignmentHeads(6, (-0.04,))),
    (12, 768): (AlignmentHeads(7, _UNMEASURED_LAGS_S), AlignmentHeads(8, _UNMEASURED_LAGS_S)),
    (24, 1024): (AlignmentHeads(9, _UNMEASURED_LAGS_S), AlignmentHeads(10, _UNMEASURED_LAGS_S)),
}
_LARGE_V1, _LARGE_V2, _LARGE_V3, _LARGE_V3_TURBO = (AlignmentHeads(preset, _UNMEASURED_LAGS_S) for preset in (11, 12, 13, 14))


def alignment_heads(text_layers: int, width: int, vocabulary: int, name: str) -> AlignmentHeads | None:
    """The heads of a model, by the layers and width of its decoder, its vocabulary, and its file's name; None for a
    shape that OpenAI has not published, such as a distilled one."""
    if (sizes := _SIZES.get((text_layers, width))) is not None:
        return sizes[vocabulary >= _MULTILINGUAL_VOCABULARY]
    if (text_layers, width) == (32, 1280):
        if vocabulary >= _LARGE_V3_VOCABULARY:
            return _LARGE_V3
        return _LARGE_V1 if "v1" in name.lower() else _LARGE_V2
    return _LARGE_V3_TURBO if (text_layers, width) == (4, 1280) else None
