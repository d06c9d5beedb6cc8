"""batch/media/sound/audio.py: every container in, 16 kHz mono float32 out, as a stream."""

from __future__ import annotations

import tracemalloc
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from batch.errors import BadRequest, UnsupportedMedia
from batch.media.sound import audio
from batch.media.sound.audio import Sound, load
from batch.media.sound.length import likely_seconds
from batch.media.sound.samples import SAMPLE_RATE as RATE
from hostile_media import png_bomb, with_cover
from sounds import JFK, encode, jfk, silence, write_wav


def test_a_wav_of_whispers_own_kind_comes_out_sample_for_sample() -> None:
    with wave.open(str(JFK)) as file:
        raw = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    assert np.array_equal(load(JFK), raw)


@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout", "container"),
    [
        ("a.mp3", "libmp3lame", 44100, "stereo", None),
        ("a.m4a", "aac", 44100, "stereo", None),
        ("a.ogg", "libopus", 48000, "mono", "ogg"),
        ("a.opus", "libopus", 48000, "stereo", None),
        ("a.webm", "libopus", 48000, "mono", None),
        ("a.flac", "flac", 16000, "mono", None),
        ("a.mkv", "aac", 48000, "mono", None),
        ("a.aiff", "pcm_s16be", 22050, "mono", None),
        ("a.ts", "aac", 48000, "mono", "mpegts"),
        ("a.wav", "pcm_s24le", 96000, "stereo", None),
        ("a.wav", "pcm_f32le", 8000, "mono", None),
        ("a.aac", "aac", 44100, "mono", "adts"),
    ],
)
def test_every_format_decodes_to_the_same_sound(
    tmp_path: Path, name: str, codec: str, rate: int, layout: str, container: str | None
) -> None:
    original = jfk()[: 5 * RATE]
    heard = load(encode(tmp_path / name, original, codec, rate, layout=layout, container=container))
    assert heard.dtype == np.float32
    assert abs(len(heard) - len(original)) < 0.1 * RATE
    loud = np.sqrt(np.mean(heard**2)) / np.sqrt(np.mean(original**2))
    assert 0.8 < loud < 1.2, "a downmix must not change the level"
    assert _likeness(original, heard) > 0.9


def _likeness(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation at the best shift of up to 0.1 s, which encoders add."""
    length = 1 << 17
    spectrum = np.conj(np.fft.rfft(one, length)) * np.fft.rfft(other, length)
    best = np.fft.irfft(spectrum)[: RATE // 10].max()
    return float(best / (np.linalg.norm(one) * np.linalg.norm(other)))


def test_the_sound_of_a_video_is_heard(tmp_path: Path) -> None:
    film = encode(tmp_path / "film.mp4", jfk(), "aac", 44100, layout="stereo", picture=True)
    assert abs(len(load(film)) - len(jfk())) < 0.2 * RATE


def test_a_video_without_sound_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "mute.mp4"
    with av.open(str(path), "w") as file:
        video = file.add_stream("mpeg4", rate=5)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        for at in range(5):
            still = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            still.pts = at
            file.mux(video.encode(still))
        file.mux(video.encode(None))
    with pytest.raises(UnsupportedMedia, match=r"^mute\.mp4 holds no sound\.$"):
        load(path)


@pytest.mark.parametrize(
    ("name", "codec", "extra"),
    [
        ("a.mp3", "libmp3lame", {}),
        ("a.flac", "flac", {}),
        ("a.webm", "libopus", {}),
        ("a.mkv", "aac", {}),
        ("a.ogg", "libopus", {}),
        ("a.m4a", "aac", {"movflags": "faststart"}),
    ],
)
def test_a_truncated_file_is_heard_as_far_as_it_goes_and_says_so(
    tmp_path: Path, name: str, codec: str, extra: dict[str, str]
) -> None:
    whole = encode(tmp_path / name, jfk(), codec, 48000 if codec == "libopus" else 44100, **extra).read_bytes()
    cut = tmp_path / f"cut-{name}"
    cut.write_bytes(whole[: len(whole) * 6 // 10])
    with Sound(cut) as sound:
        seconds = sum(len(block) for block in sound.blocks()) / RATE
    assert 5 < seconds < 8
    assert sound.truncated is not None and sound.truncated.startswith(f"cut-{name} breaks off after {seconds:.1f}")


def test_a_whole_ogg_is_not_called_cut(tmp_path: Path) -> None:
    with Sound(encode(tmp_path / "a.ogg", jfk(), "libopus", 48000)) as sound:
        list(sound.blocks())
    assert sound.truncated is None


def test_a_truncated_wav_says_so_and_a_whole_one_does_not(tmp_path: Path) -> None:
    cut = tmp_path / "cut.wav"
    cut.write_bytes(JFK.read_bytes()[:200_000])
    with Sound(cut) as sound:
        list(sound.blocks())
    assert sound.truncated == "cut.wav breaks off after 6.2 of 11.0 seconds."
    with Sound(JFK) as sound:
        list(sound.blocks())
    assert sound.truncated is None


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x80000000, 0x7FFFFFFF, 0x7FFFF000, 0x7FFFFFDB, 0])
def test_a_wav_whose_header_does_not_know_its_size_is_whole(tmp_path: Path, size: int) -> None:
    path = tmp_path / "streamed.wav"
    data = bytearray(JFK.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = size.to_bytes(4, "little")
    data[24:32] = (4000).to_bytes(4, "little") + (8000).to_bytes(4, "little")  # so slow that the promise is days
    path.write_bytes(data)
    with Sound(path) as sound:
        seconds = sum(len(block) for block in sound.blocks()) / RATE
    assert seconds == pytest.approx(44, abs=0.1) and sound.truncated is None
    assert sound.seconds is None or sound.seconds < 60


def test_the_length_of_an_upload_is_known_about_without_decoding(tmp_path: Path) -> None:
    for name, codec in (("a.wav", "pcm_s16le"), ("a.flac", "flac")):
        assert likely_seconds(encode(tmp_path / name, jfk(), codec, 44100)) == pytest.approx(11, abs=0.1)
    path = tmp_path / "x"
    for content, seconds in (
        (bytes(80_000), 10),
        (b"", 0),
        (b"RIFF\0\0\0\0WAVE", 0),
        (b"fLaC", 0),
        (b"RIFF1234WAVEfmt ", 0),
    ):
        path.write_bytes(content)
        assert likely_seconds(path) == pytest.approx(seconds, abs=0.01)


def test_an_mp4_without_its_index_is_refused_with_the_likely_reason(tmp_path: Path) -> None:
    whole = encode(tmp_path / "a.m4a", jfk(), "aac", 44100).read_bytes()
    cut = tmp_path / "cut.m4a"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnsupportedMedia, match="its index is missing"):
        load(cut)


def test_broken_packets_are_left_out(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp3", jfk(), "libmp3lame", 44100)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    path.write_bytes(data)
    assert abs(len(load(path)) / RATE - 11) < 1


@pytest.mark.parametrize("content", [b"hello there " * 50, b"\x00" * 4000, b"RIFF\x24\x00\x00\x00WAVE", b"OggS" * 9])
def test_what_is_not_sound_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    with pytest.raises(UnsupportedMedia, match=r"^x\.bin .*\.$"):
        load(path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nothing.wav"
    path.touch()
    with pytest.raises(BadRequest, match="is empty"):
        load(path)


@pytest.mark.parametrize("kind", ["m3u8", "ffconcat"])
def test_playlists_do_not_open_other_files(tmp_path: Path, kind: str) -> None:
    listing = {
        "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:11\n#EXTINF:11,\n{JFK}\n#EXT-X-ENDLIST\n",
        "ffconcat": f"ffconcat version 1.0\nfile '{JFK}'\n",
    }
    path = tmp_path / f"list.{kind}"
    path.write_text(listing[kind])
    with pytest.raises(UnsupportedMedia):
        load(path)


def test_skipped_samples_are_counted_but_not_given() -> None:
    with Sound(JFK) as sound:
        rest = np.concatenate(list(sound.blocks(skip=50_000)))
    assert np.array_equal(rest, jfk()[50_000:])
    assert sound.decoded == len(jfk())


@pytest.mark.slow
def test_a_long_file_streams_in_bounded_memory(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "long.wav", silence(1800))  # 115 MB as float32
    tracemalloc.start()
    with Sound(path) as sound:
        seconds = sum(len(block) for block in sound.blocks()) / RATE
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert abs(seconds - 1800) < 1
    assert peak < 4 << 20


def test_a_file_longer_than_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "MAX_HOURS", 0.002)
    with pytest.raises(BadRequest, match="split it"):
        load(JFK)


def test_sound_that_starts_after_its_picture_keeps_its_distance(tmp_path: Path) -> None:
    path = tmp_path / "late.mkv"
    with av.open(str(path), "w") as file:
        video = file.add_stream("mpeg4", rate=5)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        sound = file.add_stream("pcm_s16le", rate=RATE)
        sound.layout = "mono"
        for at in range(20):
            still = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            still.pts = at
            file.mux(video.encode(still))
        file.mux(video.encode(None))
        tone = (np.sin(np.arange(RATE) / 5) * 9000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = RATE, 2 * RATE
        file.mux(sound.encode(frame))
        file.mux(sound.encode(None))
    heard = load(path)
    assert abs(int(np.argmax(np.abs(heard) > 0.1)) - 2 * RATE) < 0.1 * RATE


def test_write_and_load_agree(tmp_path: Path) -> None:
    assert np.allclose(load(write_wav(tmp_path / "a.wav", jfk())), jfk(), atol=1e-4)


# -- several tracks, two channels, odd clocks


def _film(path: Path, *tracks: tuple[np.ndarray, str, Disposition]) -> Path:
    """A file with these sound tracks: samples, language, disposition."""
    with av.open(str(path), "w") as file:
        streams = []
        for _, language, disposition in tracks:
            stream = file.add_stream("pcm_s16le", rate=RATE, layout="mono")
            stream.metadata["language"] = language
            stream.disposition = disposition
            streams.append(stream)
        for stream, (samples, _, _) in zip(streams, tracks, strict=True):
            frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, 0
            file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
    return path


def _tone(amplitude: float) -> np.ndarray:
    return (amplitude * np.sin(np.arange(RATE) / 5)).astype(np.float32)


def _peak(path: Path, track: str | None = None) -> float:
    with Sound(path, "film.mkv", track) as sound:
        return float(max(np.abs(block).max(initial=0) for block in sound.blocks()))


def test_the_default_track_of_a_container_is_heard_and_another_when_it_is_named(tmp_path: Path) -> None:
    plain, default = Disposition(0), Disposition.default
    path = _film(tmp_path / "a.mkv", (_tone(0.2), "ger", plain), (_tone(0.4), "eng", default), (_tone(0.6), "jpn", plain))
    assert _peak(path) == pytest.approx(0.4, abs=0.02)
    for wanted, amplitude in (("1", 0.2), ("de", 0.2), ("German", 0.2), ("deu", 0.2), ("3", 0.6), ("ja", 0.6), ("en-US", 0.4)):
        assert _peak(path, wanted) == pytest.approx(amplitude, abs=0.02), wanted
    for wanted in ("0", "4", "fr", "auto", "klingon", "-1", "9" * 400, "²"):
        with pytest.raises(BadRequest, match=r"film\.mkv has no sound track .*: there are 1 \(ger\), 2 \(eng\), 3 \(jpn\)\.$"):
            _peak(path, wanted)


def test_a_commentary_is_not_heard_where_there_is_another_track(tmp_path: Path) -> None:
    aside = Disposition.comment
    assert _peak(_film(tmp_path / "a.mkv", (_tone(0.2), "eng", aside), (_tone(0.4), "eng", Disposition(0)))) > 0.3
    assert _peak(_film(tmp_path / "b.mkv", (_tone(0.2), "eng", aside))) > 0.1


@pytest.mark.parametrize(("left", "right", "level"), [(1, -1, 1.0), (1, 1, 1.0), (1, 0, 0.5), (0, 1, 0.5), (0.5, -0.45, 0.475)])
def test_stereo_out_of_phase_is_heard(tmp_path: Path, left: float, right: float, level: float) -> None:
    path = tmp_path / "stereo.wav"
    speech = jfk() * np.float32(0.9)
    pcm = np.stack([speech * left, speech * right], axis=1)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((pcm * 32767).astype("<i2").tobytes())
    heard = load(path)
    assert len(heard) == len(speech)
    assert np.sqrt(np.mean(heard**2)) == pytest.approx(level * float(np.sqrt(np.mean(speech**2))), rel=0.03)


def test_many_channels_are_mixed_or_refused_in_one_sentence(tmp_path: Path) -> None:
    for channels in (1, 2, 3, 4, 5, 6, 7, 8, 11, 24, 64, 65, 512):
        path = tmp_path / f"{channels}.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(channels)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(np.repeat((_tone(0.3) * 32767).astype("<i2"), channels).tobytes())
        if channels <= 64:
            heard = load(path)
            assert abs(len(heard) - RATE) < 100 and float(np.abs(heard).max()) > 0.02, channels
        else:
            with pytest.raises(UnsupportedMedia, match=r"channels: at most 64"):
                load(path)


def test_a_gap_in_a_container_s_clock_is_silence_and_a_jump_to_another_clock_is_none(tmp_path: Path) -> None:
    def recording(name: str, starts: tuple[float, ...]) -> tuple[int, str | None]:
        path = tmp_path / name
        with av.open(str(path), "w") as file:
            stream = file.add_stream("pcm_s16le", rate=RATE, layout="mono")
            for start in starts:
                frame = av.AudioFrame.from_ndarray((_tone(0.3) * 32767).astype(np.int16)[None], format="s16", layout="mono")
                frame.sample_rate, frame.pts = RATE, round(start * RATE)
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
        with Sound(path) as sound:
            return sum(len(block) for block in sound.blocks()), sound.truncated

    assert recording("whole.mkv", (0, 1, 2)) == (3 * RATE, None)
    assert recording("gap.mkv", (0, 1, 11)) == (12 * RATE, None), "ten seconds that nobody recorded"
    assert recording("rounding.mkv", (0, 1.1, 2.05)) == (3 * RATE, None)
    assert recording("jump.mkv", (0, 1, 100_000)) == (3 * RATE, None), "not 28 hours"


def test_a_container_with_a_thousand_tracks_opens_at_once(tmp_path: Path) -> None:
    path = _film(tmp_path / "many.mkv", *[(_tone(0.3), "eng", Disposition.default)] * 400)
    assert _peak(path, "400") > 0.2
    with pytest.raises(BadRequest) as refused:
        _peak(path, "401")
    assert len(refused.value.message) < 500


@pytest.mark.parametrize("rate", [1, 999, 2_000_000, 2**31 - 1])
def test_a_sample_rate_that_no_recording_has_is_refused(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "odd.wav"
    data = bytearray(JFK.read_bytes())
    data[24:32] = rate.to_bytes(4, "little") + (rate * 2 & 0xFFFFFFFF).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(UnsupportedMedia, match=rf"odd\.wav has {rate} samples a second"):
        load(path)


@pytest.mark.slow
def test_a_cover_that_would_fill_the_memory_is_not_opened(tmp_path: Path) -> None:
    music = encode(tmp_path / "music.mp3", jfk(), "libmp3lame", 44100).read_bytes()
    path = tmp_path / "cover.mp3"
    path.write_bytes(with_cover(music, png_bomb(20_000, 20_000)))
    tracemalloc.start()
    heard = load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert abs(len(heard) / RATE - 11) < 0.2 and peak < 64 << 20
