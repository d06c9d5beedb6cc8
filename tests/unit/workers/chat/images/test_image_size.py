"""No size of a picture reaches native code that would end there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.errors import BadRequest
from batch.workers.chat.images.image_size import MAX_ASPECT_RATIO, ImageSizeLimits
from paths import TINY_GEMMA4V

TINY = ImageSizeLimits.read(TINY_GEMMA4V / "tiny-gemma4v-mmproj-f16.gguf")
REAL = ImageSizeLimits(48, 1120 * 48, 70 * 48**2, 1120 * 48**2)
SIDE = st.integers(1, 100_000_000)


def test_the_limits_stand_in_the_projectors_file() -> None:
    assert ImageSizeLimits(48, 1152 * 24 // 48 * 48, 70 * 48**2, 1120 * 48**2) == TINY
    assert TINY.max_tokens == 1120


@pytest.mark.parametrize("limits", [TINY, REAL], ids=["tiny", "real"])
@given(width=SIDE, height=SIDE)
def test_every_size_becomes_one_that_the_projector_has_positions_for(limits: ImageSizeLimits, width: int, height: int) -> None:
    fitted = limits.fit(width, height)
    assert limits.fit(*fitted) == fitted
    long, short = limits._preprocessed(max(fitted), min(fitted))
    assert long <= limits.max_side
    assert limits.align <= short <= long
    assert long * short <= limits.max_area
    assert fitted == (width, height) or (fitted[0] >= fitted[1]) == (width >= height) or fitted[0] == fitted[1]


@given(width=st.integers(100, 8000), height=st.integers(100, 8000))
def test_an_ordinary_picture_keeps_its_size(width: int, height: int) -> None:
    assert TINY.fit(width, height) == (width, height)


def test_where_nothing_is_known_only_absurd_shapes_are_refused() -> None:
    unknown = ImageSizeLimits()
    assert unknown.fit(MAX_ASPECT_RATIO, 1) == (MAX_ASPECT_RATIO, 1)
    for size in ((MAX_ASPECT_RATIO + 1, 1), (1, 40_000)):
        with pytest.raises(BadRequest, match="times as long"):
            unknown.fit(*size)
