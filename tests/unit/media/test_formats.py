"""The table of file formats: every ending is recognised, and every promised file opens."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from batch.media.formats import FORMATS, PICTURE_PLUGINS, SOUND_DEMUXERS, MediaKind
from batch.media.kind import HEAD_BYTES, kind_of
from batch.media.sound.audio import load
from batch.media.sound.samples import SAMPLE_RATE
from sounds import encode, jfk

SOUND = (MediaKind.AUDIO, MediaKind.VIDEO)

# What FFmpeg can also write, so that a file of that kind can be made here: ending, codec, container, sample rate.
WRITABLE = [
    ("wav", "pcm_s16le", "wav", 16000),
    ("w64", "pcm_s16le", "w64", 16000),
    ("mp3", "libmp3lame", "mp3", 44100),
    ("mp2", "mp2", "mp2", 44100),
    ("aac", "aac", "adts", 44100),
    ("latm", "aac", "latm", 44100),
    ("m4a", "aac", "ipod", 44100),
    ("m4a", "alac", "ipod", 44100),
    ("flac", "flac", "flac", 16000),
    ("ogg", "libopus", "ogg", 48000),
    ("ogg", "flac", "ogg", 48000),
    ("opus", "libopus", "opus", 48000),
    ("mka", "aac", "matroska", 44100),
    ("weba", "libopus", "webm", 48000),
    ("wma", "wmav2", "asf", 44100),
    ("aiff", "pcm_s16be", "aiff", 44100),
    ("aifc", "pcm_alaw", "aiff", 8000),
    ("caf", "alac", "caf", 44100),
    ("amr", "libopencore_amrnb", "amr", 8000),
    ("au", "pcm_s16be", "au", 16000),
    ("ac3", "ac3", "ac3", 44100),
    ("eac3", "eac3", "eac3", 44100),
    ("wv", "wavpack", "wv", 44100),
    ("tta", "tta", "tta", 44100),
    ("voc", "pcm_u8", "voc", 16000),
    ("ra", "ac3", "rm", 44100),
    ("mp4", "aac", "mp4", 44100),
    ("mov", "pcm_s16le", "mov", 44100),
    ("3gp", "aac", "3gp", 44100),
    ("3g2", "aac", "3g2", 44100),
    ("mkv", "flac", "matroska", 44100),
    ("webm", "libopus", "webm", 48000),
    ("avi", "libmp3lame", "avi", 44100),
    ("wmv", "wmav2", "asf", 44100),
    ("mpg", "mp2", "mpeg", 44100),
    ("vob", "ac3", "vob", 48000),
    ("ts", "aac", "mpegts", 44100),
    ("flv", "aac", "flv", 44100),
    ("ogv", "libopus", "ogg", 48000),
    ("nut", "pcm_s16le", "nut", 44100),
]


@pytest.mark.parametrize(("ending", "codec", "container", "rate"), WRITABLE)
def test_every_promised_sound_opens_and_is_recognised_with_and_without_its_name(
    tmp_path: Path, ending: str, codec: str, container: str, rate: int
) -> None:
    speech = jfk()[: 4 * SAMPLE_RATE]
    path = encode(tmp_path / f"sound.{ending}", speech, codec, rate, container=container)
    heard = load(path)
    assert abs(len(heard) - len(speech)) < 0.4 * SAMPLE_RATE
    assert np.sqrt(np.mean(heard**2)) == pytest.approx(np.sqrt(np.mean(speech**2)), rel=0.25)
    head = path.read_bytes()[:HEAD_BYTES]
    assert kind_of(head, path.name) in SOUND
    if ending not in ("latm",):
        assert kind_of(head, "noname") in SOUND


def test_every_demuxer_and_plugin_of_the_table_is_there_and_reads_files_of_its_own_only() -> None:
    Image.init()
    import batch.media.image  # noqa: F401  (registers HEIF)

    assert set(PICTURE_PLUGINS) <= set(Image.OPEN)
    for name in SOUND_DEMUXERS:
        assert av.ContainerFormat(name).is_input, name
    assert not {"hls", "concat", "dash", "sdp", "image2", "lavfi"} & set(SOUND_DEMUXERS)


def test_an_ending_stands_once_and_tells_its_kind() -> None:
    endings = [suffix for row in FORMATS for suffix in row.suffixes]
    assert len(endings) == len(set(endings))
    for row in FORMATS:
        for suffix in row.suffixes:
            assert suffix == suffix.lower()
            assert kind_of(b"\x01\x02\x03", f"X.{suffix.upper()}") is (
                MediaKind.UNKNOWN if row.kind in (MediaKind.TEXT, MediaKind.DOCUMENT) else row.kind
            )
