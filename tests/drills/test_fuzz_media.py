"""Real files, damaged at random: every outcome is a result or a sentence. Settings and rules files too."""

from __future__ import annotations

import io
import os
import wave
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from batch.api.json_body import parse_json
from batch.errors import BatchError, SettingsProblem
from batch.folder.folder_settings import FolderSettingsReader
from batch.media.image import image_header, open_image
from batch.media.kind import HEAD_BYTES, MediaKind, kind_of
from batch.media.sound.audio import Sound
from batch.media.text import decode_text
from batch.settings import FolderSettings, Settings
from hostile_media import png_bomb, with_cover
from paths import DATA
from sounds import wav
from speech_setup import SILERO, TINY_EN, loaded, transcribe, work

SCALE = int(os.environ.get("FUZZ_SCALE", "1"))
BOUNDED = settings(deadline=None, derandomize=SCALE == 1, database=None, suppress_health_check=list(HealthCheck))

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's about damaged metadata


@cache
def picture(form: str) -> bytes:
    image = Image.open(DATA / "sample-red-circle.png").convert("RGB").resize((96, 64))
    out = io.BytesIO()
    if form == "GIF":
        image.convert("P").save(out, form, save_all=True, append_images=[image.rotate(90).convert("P")])
    elif form == "PNG":
        image.convert("RGBA").save(out, form)
    elif form == "JPEG":
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(out, form, exif=exif, progressive=True)
    elif form == "TIFF":
        image.save(out, form, compression="tiff_lzw")
    else:
        image.save(out, form)
    return out.getvalue()


@cache
def sound(form: str) -> bytes:
    """Two seconds of the sample, in a container."""
    with wave.open(str(DATA / "jfk.wav")) as file:
        samples = np.frombuffer(file.readframes(32_000), np.int16)
    if form == "wav":
        return wav(samples.tobytes())
    codec, rate = {
        "mp3": ("libmp3lame", 16_000),
        "flac": ("flac", 16_000),
        "ogg": ("libopus", 48_000),
        "mp4": ("aac", 16_000),
        "matroska": ("libopus", 48_000),
    }[form]
    out = io.BytesIO()
    with av.open(out, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        resampler = av.AudioResampler(
            format=stream.codec_context.format,
            layout="mono",
            rate=rate,
            frame_size=stream.codec_context.frame_size or 1024,
        )
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), "s16", "mono")
        frame.sample_rate, frame.time_base, frame.pts = 16_000, Fraction(1, 16_000), 0
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return out.getvalue()


@st.composite
def damage(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes flipped, cut out, put in, doubled, or the end missing."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 6))):
        # The start, with its headers, is the interesting part of most files.
        at = draw(st.integers(0, min(len(data), 200)) | st.integers(0, len(data)))
        match draw(st.integers(0, 5)):
            case 0:
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case 1:
                data[at : at + 4] = draw(st.sampled_from([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\0\0\0\1"]))
            case 2:
                del data[at : at + draw(st.integers(1, 64))]
            case 3:
                data[at:at] = draw(st.binary(max_size=16))
            case 4:
                data[at:at] = data[at : at + 256]
            case 5:
                del data[max(at, 1) :]
    return bytes(data)


def sentence(error: BatchError) -> None:
    assert error.message and "\n" not in error.message and len(error.message) < 500, error.message
    assert error.status in (400, 413, 415), error.status


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "HEIF", "AVIF"])
def test_a_damaged_picture_is_a_picture_or_a_sentence(form: str) -> None:
    outcomes: set[bool] = set()

    @settings(BOUNDED, max_examples=120 * SCALE)
    @given(data=damage(picture(form)))
    def look(data: bytes) -> None:
        kind_of(data[:HEAD_BYTES], f"x.{form.lower()}")
        for see in (image_header, open_image):
            try:
                seen: Any = see(data, 4_000_000, 1 << 20)
            except BatchError as error:
                sentence(error)
                outcomes.add(False)
            else:
                if see is open_image:
                    assert seen.mode == "RGB" and 0 < seen.width * seen.height <= 4_000_000
                outcomes.add(True)

    look()
    assert outcomes == {True, False}, "neither too gentle nor too rough"


@pytest.mark.parametrize("form", ["wav", "mp3", "flac", "ogg", "mp4", "matroska"])
def test_damaged_sound_is_sound_or_a_sentence(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"damaged.{form}"

    @settings(BOUNDED, max_examples=60 * SCALE)
    @given(data=damage(sound(form)))
    def listen(data: bytes) -> None:
        path.write_bytes(data)
        try:
            with Sound(path) as opened:
                heard = 0
                for block in opened.blocks():
                    assert block.dtype == np.float32 and block.ndim == 1 and len(block) <= 16_000
                    assert np.isfinite(block).all() and float(abs(block).max(initial=0)) <= 1.0
                    heard += len(block)
                    if heard > 16_000 * 600:
                        break  # a header that lies about its rate may make minutes of two seconds
                assert opened.truncated is None or "\n" not in opened.truncated
        except BatchError as error:
            sentence(error)

    listen()


def test_damaged_sound_through_the_real_engine_is_a_transcript_or_a_sentence(tmp_path: Path) -> None:
    """The decoder's process and the model: after every file the same worker understands the next one."""
    engine = loaded(TINY_EN, vad_model=str(SILERO))
    path = tmp_path / "damaged"
    outcomes: set[bool] = set()

    def judge(data: bytes, **options: Any) -> None:
        path.write_bytes(data)
        try:
            result = transcribe(engine, work(tmp_path, path, temperature_inc=0.0, duration=20_000, **options))
        except BatchError as error:
            sentence(error)
            outcomes.add(False)
            return
        outcomes.add(True)
        assert all(segment.end > segment.start for segment in result.segments)
        assert all(word.end > word.start for segment in result.segments for word in segment.words or ())
        assert result.truncated is None or "\n" not in result.truncated

    @settings(BOUNDED, max_examples=30 * SCALE)
    @given(
        data=st.sampled_from(["wav", "mp3", "flac", "ogg", "mp4", "matroska"]).flatmap(lambda form: damage(sound(form))),
        options=st.sampled_from([{}, {"words": True}, {"token_timestamps": True, "max_len": 1}, {"vad": True}]),
    )
    def listen(data: bytes, options: dict[str, Any]) -> None:
        judge(data, **options)

    try:
        listen()
        for hostile in (with_cover(sound("mp3"), png_bomb(20_000, 20_000)), b"", b"\0" * 5000, sound("wav")[:44]):
            judge(hostile)
        assert outcomes == {True, False}, "neither too gentle nor too rough"
        path.write_bytes((DATA / "jfk.wav").read_bytes())
        assert "fellow Americans" in transcribe(engine, work(tmp_path, path)).text
    finally:
        engine.close()


@settings(BOUNDED, max_examples=150 * SCALE)
@given(
    data=st.binary(max_size=400)
    | st.text(max_size=200).flatmap(
        lambda text: st.sampled_from(["utf-8", "utf-16", "utf-16-le", "utf-32", "gb18030", "utf-8-sig"]).map(
            lambda code: text.encode(code, "replace")
        )
    )
    | damage("Die Straße ist naß. 今天天气很好。\r\n".encode() * 5)
)
def test_any_bytes_are_a_text_or_a_sentence(data: bytes) -> None:
    try:
        text = decode_text(data, "note.txt")
    except BatchError as error:
        sentence(error)
    else:
        assert "\r" not in text
        text.encode("utf-8")  # no half surrogate pairs


@settings(BOUNDED, max_examples=300 * SCALE)
@given(
    head=st.binary(max_size=64) | st.sampled_from([picture("PNG"), picture("GIF"), sound("wav")]).flatmap(damage),
    name=st.text(max_size=30),
)
def test_any_file_has_a_kind(head: bytes, name: str) -> None:
    assert kind_of(head[:HEAD_BYTES], name) in MediaKind


# -- documents and settings


@settings(BOUNDED, max_examples=300 * SCALE)
@given(
    data=st.binary(max_size=60)
    | st.text(alphabet='{}[]",:\\ud8-+.0123456789eENaIf \ud800\x00é', max_size=60).map(
        lambda text: text.encode("utf-8", "surrogatepass")
    )
)
def test_any_bytes_are_a_document_or_a_sentence(data: bytes) -> None:
    import json

    try:
        document = parse_json(data)
    except BatchError as error:
        assert error.status == 400 and error.message
    else:
        again = json.dumps(document, allow_nan=False, ensure_ascii=False).encode()
        assert parse_json(again) == document


LEAF = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["keep", "move", "en", "weightless", "../..", "/", "127.0.0.1"])
)
KEYS = st.sampled_from([*Settings.model_fields, *FolderSettings.model_fields, "port", "threads", "host"])


@settings(BOUNDED, max_examples=200 * SCALE)
@given(flags=st.dictionaries(KEYS, LEAF | st.dictionaries(KEYS, LEAF, max_size=3), max_size=4))
def test_any_settings_are_settings_or_a_sentence(flags: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    flags.pop("home", None)
    try:
        found = Settings.load(tmp_path_factory.getbasetemp(), flags)
    except SettingsProblem as error:
        assert error.message and "\n" not in error.message
    else:
        assert Settings.model_validate_json(found.model_dump_json()) == found, "workers get the same"


def toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(c if c.isalnum() or c in " ./-" else f"\\U{ord(c):08x}" for c in value) + '"'
    return repr(value)


SURE = st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(BOUNDED, max_examples=200 * SCALE)
@given(
    text=st.dictionaries(KEYS, SURE, max_size=4).map(lambda d: "".join(f"{k} = {toml(v)}\n" for k, v in d.items()).encode())
    | st.binary(max_size=80)
    | st.sampled_from([b"a = " + b"[" * 5000, b"a." * 3000 + b"a = 1", b"formats = [[]]"])
)
def test_any_rules_file_is_rules_or_a_sentence(text: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("rules", numbered=True)
    (folder / ".batch.toml").write_bytes(text)
    settings = FolderSettingsReader(str(folder), FolderSettings(source="delete"))
    found = settings.for_folder("").folder
    (change,) = settings.take_changes()
    if change.problem is not None:
        assert "\n" not in change.problem.message
        assert found.source == "keep", "nothing is taken away on a misunderstanding"
    (folder / ".batch.toml").rename(folder / "batch.toml")
    look: Callable[[], object] = lambda: Settings.load(folder)  # noqa: E731
    try:
        look()
    except SettingsProblem as error:
        assert "\n" not in error.message
