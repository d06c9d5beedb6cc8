"""Pictures that are decoded ahead of the jobs that show them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from batch.errors import Cancelled, UnsupportedMedia
from batch.media.decoder.pixel_memory import Pixels
from batch.queue.jobs import Kind, Priority
from batch.settings import LimitSettings
from batch.workers.chat.images import picture_reader
from batch.workers.chat.images.picture_reader import PictureReader
from running_service import wait_until
from scripted_work import ScriptedWork


@pytest.fixture
def reader() -> Iterator[PictureReader]:
    reader = PictureReader(LimitSettings())
    reader.start()
    yield reader
    reader.close()


def job(folder: Path, *pictures: str) -> ScriptedWork:
    parts = [{"type": "image", "blob": picture} for picture in pictures]
    request = {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "What is it?"}]}]}
    return ScriptedWork(folder, Kind.VLM, "chat", request, priority=Priority.INBOX)


def drawn(folder: Path, number: int, size: tuple[int, int] = (64, 48)) -> ScriptedWork:
    """A job with a picture that no other number gives."""
    Image.new("RGB", size, (number, 100, 200)).save(folder / str(number), "PNG")
    return job(folder, str(number))


def shown(pixels: Pixels) -> int:
    """The number of a picture, all of whose pixels must say so."""
    assert (pixels[..., 1] == 100).all() and (pixels[..., 0] == pixels[0, 0, 0]).all()
    return int(pixels[0, 0, 0])


def decoders(reader: PictureReader) -> Sequence[int | None]:
    """The processes that are not at work."""
    return [decoder.pid for decoder in reader._decoders._idle]


def is_ready(reader: PictureReader) -> bool:
    """Whether the picture that is decoded ahead is there."""
    return reader._ahead is not None and reader._ahead.decoder.is_ready(0.0)


def test_each_picture_is_decoded_while_the_one_before_it_is_prepared(reader: PictureReader, tmp_path: Path) -> None:
    works = [drawn(tmp_path, number) for number in range(6)]
    reader.expect(works)
    kept = []
    for number, work in enumerate(works):
        wait_until(lambda: is_ready(reader), "it is decoded before anybody asks for it")
        kept.append(reader.read(work, str(number)))
        assert work.units == [], "nobody waited"
    assert [shown(pixels) for pixels in kept[:-1]] == [0, 1, 2, 3, 4], "those that others follow are not overwritten"
    assert shown(kept[-1]) == 5 and reader._ahead is None
    assert len(decoders(reader)) == 1, "one decoder for all of them"


def test_pictures_may_be_asked_for_in_another_order_and_others_come_between(reader: PictureReader, tmp_path: Path) -> None:
    works = [drawn(tmp_path, number) for number in range(5)]
    other = drawn(tmp_path, 99)
    reader.expect(works)
    wait_until(lambda: is_ready(reader), "the first is decoded")
    assert shown(reader.read(other, "99")) == 99
    assert len(decoders(reader)) == 1, "the decoder was free for it"
    for number in (3, 0, 4, 1, 2):
        assert shown(reader.read(works[number], str(number))) == number
    pid = decoders(reader)[0] or 0
    os.kill(pid, signal.SIGSTOP)
    reader.expect(works[:1])
    assert shown(reader.read(other, "99")) == 99, "one that takes long holds up no other"
    os.kill(pid, signal.SIGCONT)
    assert shown(reader.read(works[0], "0")) == 0


def test_a_picture_that_ends_the_decoder_is_blamed_on_its_job_alone(reader: PictureReader, tmp_path: Path) -> None:
    first, last = drawn(tmp_path, 1), drawn(tmp_path, 3)
    (tmp_path / "2").write_bytes(b"no picture")
    broken, lost = job(tmp_path, "2"), drawn(tmp_path, 4)
    reader.expect([first, broken, lost, last])
    assert shown(reader.read(first, "1")) == 1
    with pytest.raises(UnsupportedMedia):
        reader.read(broken, "2")
    reader.forget(broken)
    wait_until(lambda: is_ready(reader), "the next one is decoded")
    assert reader._ahead is not None
    pid = reader._ahead.decoder.pid
    reader.forget(lost)
    assert reader._ahead is not None and reader._ahead.decoder.pid == pid, "a picture that is there costs no decoder"
    assert shown(reader.read(last, "3")) == 3
    assert shown(reader.read(lost, "4")) == 4


def test_a_job_that_is_cancelled_while_its_picture_is_decoded_takes_no_other_with_it(
    reader: PictureReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch.media.decoder.process.IMAGE_TICK_S", 0.01)
    first, second = drawn(tmp_path, 1), drawn(tmp_path, 2)
    os.kill(decoders(reader)[0] or 0, signal.SIGSTOP)
    reader.expect([first, second])

    def cancel() -> None:
        raise Cancelled

    first.at = {1: cancel}
    with pytest.raises(Cancelled):
        reader.read(first, "1")
    reader.forget(first)
    assert shown(reader.read(second, "2")) == 2


def test_behind_a_picture_too_large_to_copy_none_is_decoded_ahead(
    reader: PictureReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_reader, "MAX_AHEAD_PIXEL_BYTES", 64 * 48 * 3)
    works = [drawn(tmp_path, 1, (65, 48)), drawn(tmp_path, 2), drawn(tmp_path, 3)]
    reader.expect(works)
    large = reader.read(works[0], "1")
    assert reader._ahead is None and shown(large) == 1
    pixels = reader.read(works[1], "2")
    assert reader._ahead is not None
    assert shown(reader.read(works[2], "3")) == 3 and shown(pixels) == 2


def test_a_job_whose_picture_the_spool_has_lost_expects_nothing(reader: PictureReader, tmp_path: Path) -> None:
    class Lost(ScriptedWork):
        def spool_path(self, sha256: str) -> Path:
            raise UnsupportedMedia("The spool no longer holds this job's payload.")

    work = job(tmp_path, "1")
    lost = Lost(tmp_path, Kind.VLM, "chat", work.payload)
    text = ScriptedWork(tmp_path, Kind.VLM, "chat", {"messages": [{"role": "user", "content": "no picture"}]})
    reader.expect([lost, text])
    reader.forget(lost)
    assert reader._ahead is None and not reader._expected
    assert np.array_equal(reader.read(drawn(tmp_path, 7), "7")[0, 0], [7, 100, 200])
