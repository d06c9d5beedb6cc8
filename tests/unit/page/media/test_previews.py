"""Small pictures: kept within their room, made of anything that is a picture, and never of what is not."""

from __future__ import annotations

import contextlib
import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from batch.errors import BatchError, Unavailable, UnsupportedMedia
from batch.media.decoder import process as decoder_process
from batch.page.media.previews import Previews
from batch.page.media.source_bytes import SourceBytes
from batch.settings import LimitSettings
from folder_stage import picture
from hostile_media import progressive_jpeg


def source(folder: Path, data: bytes, tag: str) -> SourceBytes:
    path = folder / tag
    path.write_bytes(data)
    return SourceBytes(os.open(path, os.O_RDONLY), path.name, tag)


@contextlib.contextmanager
def previews_in(tmp_path: Path, max_bytes: int = 1 << 20) -> Iterator[Previews]:
    """Small pictures below a folder, whose decoder ends with the block."""
    previews = Previews(tmp_path / "previews", max_bytes, LimitSettings())
    try:
        yield previews
    finally:
        previews.close()


def test_a_preview_is_no_larger_than_asked_and_comes_from_the_cache_the_second_time(tmp_path: Path) -> None:
    opened = source(tmp_path, picture("red", size=2000), "ab12")
    with previews_in(tmp_path) as previews:
        first = previews.preview(opened, 320)
        assert Image.open(io.BytesIO(first)).size == (320, 320)
        (kept,) = (tmp_path / "previews").rglob("*.webp")
        kept.write_bytes(b"from the cache")
        assert previews.preview(opened, 320) == b"from the cache"
    opened.close()


def test_a_picture_that_ends_its_decoder_is_refused_and_the_next_one_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_process, "IMAGE_TICK_S", 0.05)
    slow, good = source(tmp_path, progressive_jpeg(9990, 9990, 99), "slow"), source(tmp_path, picture(), "good")
    with previews_in(tmp_path) as previews:
        previews.preview(good, 100)
        decoder = previews._decoders._idle[0]  # type: ignore[union-attr]
        with monkeypatch.context() as patch:
            patch.setattr(previews, "_look_up", lambda: os.kill(decoder.pid or 0, signal.SIGSEGV))
            with pytest.raises(UnsupportedMedia, match=r"ended the decoder \(SIGSEGV\)"):
                previews.preview(slow, 320)
        assert previews.preview(good, 320)[8:12] == b"WEBP"
    slow.close()
    good.close()


def test_a_slow_picture_is_given_up_where_the_service_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_process, "IMAGE_TICK_S", 0.05)
    slow = source(tmp_path, progressive_jpeg(9990, 9990, 99), "slow")
    with previews_in(tmp_path) as previews:
        previews.stop()
        with pytest.raises(Unavailable):
            previews.preview(slow, 320)
    slow.close()


def test_the_cache_keeps_within_its_room_and_gives_up_what_was_looked_at_longest_ago(tmp_path: Path) -> None:
    noise = [Image.effect_noise((300, 300), 90).convert("RGB") for _ in range(6)]
    with previews_in(tmp_path, 60_000) as previews:
        for number, image in enumerate(noise):
            out = io.BytesIO()
            image.save(out, "PNG")
            opened = source(tmp_path, out.getvalue(), f"{number:02}tag")
            previews.preview(opened, 300)
            opened.close()
            kept = list((tmp_path / "previews").rglob("*.webp"))
            for file in kept:
                os.utime(file, (int(file.name[:2]), int(file.name[:2])))
            assert sum(file.stat().st_size for file in kept) <= 60_000
    assert 1 <= len(kept) < 6 and max(file.name for file in kept).startswith("05")


@pytest.mark.parametrize("data", [b"", b"no picture", picture()[:-300]], ids=["empty", "text", "torn"])
def test_what_is_no_picture_is_an_error_in_a_sentence(tmp_path: Path, data: bytes) -> None:
    opened = source(tmp_path, data, "ab")
    with previews_in(tmp_path) as previews, pytest.raises(BatchError):
        previews.preview(opened, 320)
    opened.close()
    assert not list((tmp_path / "previews").rglob("*.webp"))


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "previews").write_text("a file stands where the folder should be")
    opened = source(tmp_path, picture(), "ab")
    with previews_in(tmp_path) as previews:
        assert previews.preview(opened, 320)[8:12] == b"WEBP"
    opened.close()
