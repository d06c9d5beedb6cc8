"""Range headers, as RFC 9110 has them."""

from __future__ import annotations

import pytest

from batch.page.media.byte_range import parse_range


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, (0, 100)),
        ("bytes=0-9", (0, 10)), ("bytes=90-", (90, 100)), ("bytes=90-500", (90, 100)), ("bytes=-10", (90, 100)),
        ("bytes=-500", (0, 100)), ("bytes=100-", None), ("bytes=-0", None), ("bytes=9-3", (0, 100)), ("bytes=-", (0, 100)),
        ("bytes=0-1,5-6", (0, 100)), ("pages=1-2", (0, 100)),
        pytest.param(f"bytes={'9' * 400}-", (0, 100), id="long"),
        ("bytes=\u0661-", (0, 100)),
    ],
)  # fmt: skip
def test_a_range_names_bytes_of_the_file(header: str | None, expected: tuple[int, int] | None) -> None:
    assert parse_range(header, 100) == expected


def test_an_empty_file_is_sent_whole() -> None:
    assert parse_range(None, 0) == (0, 0) and parse_range("bytes=0-", 0) is None
