"""Decoding in a process of its own: same sound, and a file that crashes or hangs the decoder ends nothing but itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from batch.errors import BadRequest, Cancelled, TooLarge, UnsupportedMedia
from batch.media.decoder import process as decoder_process
from batch.media.decoder.pool import DecoderPool
from batch.media.decoder.process import DecoderProcess, SoundStream
from batch.media.decoder.running_pids import running_pids
from batch.media.image import open_image
from batch.media.sound.audio import load
from batch.media.sound.samples import SAMPLE_RATE
from hostile_media import progressive_jpeg
from paths import DATA
from running_service import alive, wait_until
from sounds import JFK, encode, jfk, silence, write_wav

CIRCLE = DATA / "sample-red-circle.png"


@pytest.fixture(scope="module")
def shared() -> Iterator[DecoderProcess]:
    decoder = DecoderProcess("sound")
    yield decoder
    decoder.close()


@pytest.fixture
def decoder() -> Iterator[DecoderProcess]:
    process = DecoderProcess("sound")
    yield process
    process.close()


def _samples(decoder: DecoderProcess, path: Path, **options: int) -> np.ndarray:
    with SoundStream(decoder, path, **options) as sound:  # type: ignore[arg-type]
        return np.concatenate([*sound.blocks(), np.zeros(0, np.float32)])


def _long(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "long.wav", silence(600))


def test_the_sound_is_the_same_sample_for_sample(shared: DecoderProcess, tmp_path: Path) -> None:
    other = encode(tmp_path / "a.mp3", jfk(), "libmp3lame", 44100, layout="stereo")
    for path in (JFK, other, JFK):
        assert np.array_equal(_samples(shared, path), load(path))
    assert np.array_equal(_samples(shared, JFK, skip=50_000), load(JFK)[50_000:])


def test_what_a_file_says_of_itself_arrives(shared: DecoderProcess, tmp_path: Path) -> None:
    cut = tmp_path / "cut.wav"
    cut.write_bytes(JFK.read_bytes()[:200_000])
    with SoundStream(shared, cut, "speech.wav") as sound:
        blocks = list(sound.blocks())
    assert sound.seconds == 11.0 and sound.decoded == sum(map(len, blocks))
    assert sound.truncated == "speech.wav breaks off after 6.2 of 11.0 seconds."
    for content, error in ((b"", BadRequest), (b"hello " * 100, UnsupportedMedia)):
        cut.write_bytes(content)
        with pytest.raises(error, match=r"^speech\.wav "):
            SoundStream(shared, cut, "speech.wav")
    with pytest.raises(BadRequest, match="no sound track"):
        SoundStream(shared, JFK, track="2")


def test_a_file_may_be_left_in_its_middle_and_the_next_one_is_whole(shared: DecoderProcess, tmp_path: Path) -> None:
    long = _long(tmp_path)
    for _ in range(3):
        with SoundStream(shared, long) as sound:
            next(sound.blocks())
        process = shared.pid
        assert len(_samples(shared, JFK)) == 11 * SAMPLE_RATE
        assert shared.pid == process, "no decoder was lost for it"


def test_a_decoder_that_crashes_ends_its_file_with_a_sentence_and_nothing_else(decoder: DecoderProcess, tmp_path: Path) -> None:
    with SoundStream(decoder, _long(tmp_path), "long.wav") as sound:
        blocks = sound.blocks()
        next(blocks)
        assert decoder.pid is not None
        os.kill(decoder.pid, signal.SIGSEGV)
        with pytest.raises(UnsupportedMedia, match=r"^long\.wav cannot be decoded: it ended the decoder \(SIGSEGV\)"):
            list(blocks)
    assert len(_samples(decoder, JFK)) == 11 * SAMPLE_RATE


def test_a_decoder_that_hangs_is_given_up_at_a_deadline_and_who_waits_can_look_up(
    decoder: DecoderProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SoundStream(decoder, _long(tmp_path), "long.wav") as sound:
        blocks = sound.blocks()
        next(blocks)
        monkeypatch.setattr(decoder_process, "SILENCE_LIMIT_S", 1.5)
        monkeypatch.setattr(decoder_process, "TICK_S", 0.2)
        hung = decoder.pid
        assert hung is not None
        os.kill(hung, signal.SIGSTOP)
        started = time.monotonic()
        empty = 0
        with pytest.raises(BadRequest, match=r"^long\.wav takes too long to decode"):
            for block in blocks:
                empty += len(block) == 0
        assert empty >= 4 and time.monotonic() - started < 60
    monkeypatch.undo()
    assert len(_samples(decoder, JFK)) == 11 * SAMPLE_RATE and decoder.pid != hung


def test_a_decoder_ends_with_whoever_started_it() -> None:
    script = (
        "import os, signal; from pathlib import Path; from batch.media.decoder.process import DecoderProcess, SoundStream\n"
        f"decoder = DecoderProcess('sound'); next(SoundStream(decoder, Path({str(JFK)!r})).blocks())\n"
        "print(decoder.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    wait_until(lambda: not alive(int(killed.stdout)), "the decoder has ended", 30)


def test_jobs_inside_one_another_have_a_decoder_each_and_one_is_kept(tmp_path: Path) -> None:
    pool = DecoderPool("sound")
    pool.start()
    with pool.lend() as outer, SoundStream(outer, _long(tmp_path)) as sound:
        blocks = sound.blocks()
        next(blocks)
        with pool.lend() as inner:
            assert inner is not outer and len(_samples(inner, JFK)) == 11 * SAMPLE_RATE
        assert sum(map(len, blocks)) > 590 * SAMPLE_RATE
    with pool.lend() as kept:
        assert kept in (inner, outer) and (inner.pid is None or outer.pid is None)
    pool.close()
    assert inner.pid is outer.pid is None


@pytest.fixture
def image_decoder() -> Iterator[DecoderProcess]:
    process = DecoderProcess("image")
    yield process
    process.close()


def test_pictures_are_decoded_as_they_are_here(image_decoder: DecoderProcess) -> None:
    decoder = image_decoder
    here = open_image(CIRCLE, 1 << 20, 1 << 20)
    for source in (CIRCLE, str(CIRCLE), CIRCLE.read_bytes()):
        image = decoder.image(source, 1 << 20, 1 << 20)
        assert np.array_equal(image, np.asarray(here))
    with pytest.raises(TooLarge, match=r"limits\.image_pixels"):
        decoder.image(CIRCLE, 100, 1 << 20)
    with pytest.raises(UnsupportedMedia):
        decoder.image(b"no picture", 100, 1 << 20)


def test_a_picture_that_takes_too_long_or_crashes_is_refused_and_the_next_one_opens(
    image_decoder: DecoderProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = image_decoder
    decoder.image(CIRCLE, 1 << 20, 1 << 20)
    assert decoder.pid is not None
    os.kill(decoder.pid, signal.SIGSTOP)
    monkeypatch.setattr(decoder_process, "IMAGE_LIMIT_S", 0.5)
    with pytest.raises(BadRequest, match="takes longer to decode"):
        decoder.image(CIRCLE, 1 << 20, 1 << 20)
    monkeypatch.undo()
    decoder.image(CIRCLE, 1 << 20, 1 << 20)
    os.kill(decoder.pid, signal.SIGSTOP)
    threading.Timer(0.3, os.kill, (decoder.pid, signal.SIGKILL)).start()
    with pytest.raises(UnsupportedMedia, match=r"SIGKILL"):
        decoder.image(CIRCLE, 1 << 20, 1 << 20)
    assert decoder.image(CIRCLE, 1 << 20, 1 << 20).shape == (256, 256, 3)


def test_a_picture_of_a_hundred_megapixels_is_made_smaller_before_a_model_has_to(image_decoder: DecoderProcess) -> None:
    pixels = image_decoder.image(progressive_jpeg(9990, 9990, 1), 100_000_000, 1 << 20)
    assert pixels.shape == (3330, 3330, 3) and (pixels == 128).all()
    assert image_decoder.image(progressive_jpeg(4000, 4000, 1), 100_000_000, 1 << 20).shape == (4000, 4000, 3)


@pytest.mark.parametrize("reason", [KeyboardInterrupt, Cancelled])
def test_who_waits_for_a_picture_may_give_it_up_and_the_next_one_opens(
    image_decoder: DecoderProcess, monkeypatch: pytest.MonkeyPatch, reason: type[BaseException]
) -> None:
    monkeypatch.setattr(decoder_process, "IMAGE_TICK_S", 0.05)
    slow = progressive_jpeg(9990, 9990, 99)
    looks: list[float] = []

    def look_up() -> None:
        looks.append(time.monotonic())
        if len(looks) == 3:
            raise reason

    with pytest.raises(reason):
        image_decoder.image(slow, 100_000_000, 1 << 20, look_up)
    assert len(looks) == 3
    assert image_decoder.image(CIRCLE, 1 << 20, 1 << 20).shape == (256, 256, 3)


def test_a_large_pictures_memory_is_given_back_and_its_pixels_stay(
    image_decoder: DecoderProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_decoder.image(CIRCLE, 1 << 20, 1 << 20)
    kept = image_decoder.pid
    image_decoder.image(CIRCLE, 1 << 20, 1 << 20)
    assert image_decoder.pid == kept is not None
    monkeypatch.setattr(decoder_process, "KEPT_PIXEL_BYTES", 1000)
    pixels = image_decoder.image(CIRCLE, 1 << 20, 1 << 20)
    assert image_decoder.pid is None
    assert np.array_equal(pixels, np.asarray(open_image(CIRCLE, 1 << 20, 1 << 20)))


def test_a_decoder_counts_as_this_process_own_as_long_as_it_runs(decoder: DecoderProcess) -> None:
    decoder.start()
    first = decoder.pid
    assert first is not None and first in running_pids
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: decoder._process is not None and decoder._process.poll() is not None, "the decoder ends")
    decoder.start()
    assert first not in running_pids and decoder.pid in running_pids
    last = decoder.pid
    decoder.close()
    assert last not in running_pids
