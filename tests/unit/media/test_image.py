"""Pictures and kinds of files, on real files made here."""

from __future__ import annotations

import io
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from batch.errors import BadRequest, BatchError, TooLarge, UnsupportedMedia
from batch.media.image import image_header, open_image
from batch.media.kind import MediaKind, kind_of
from hostile_media import progressive_jpeg
from property_examples import examples

PIXELS, BYTES = 100_000_000, 64 << 20
RED = (220, 20, 20)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def half_red(width: int = 40, height: int = 20) -> Image.Image:
    """Left half red, right half white."""
    image = Image.new("RGB", (width, height), "white")
    image.paste(RED, (0, 0, width // 2, height))
    return image


def near(got: object, wanted: tuple[int, int, int]) -> bool:
    assert isinstance(got, tuple)
    return all(abs(a - b) < 40 for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF"])
def test_every_promised_format_opens_from_bytes_and_from_a_path(format: str, tmp_path: Path) -> None:
    data = encoded(half_red(64, 32), format)
    path = tmp_path / "x"
    path.write_bytes(data)
    for source in (data, path, str(path)):
        image = open_image(source, PIXELS, BYTES)
        assert image.mode == "RGB" and image.size == (64, 32)
        assert near(image.getpixel((5, 10)), RED) and near(image.getpixel((60, 10)), (255, 255, 255))
        assert image_header(source) == (format.lower(), 64, 32)
    assert kind_of(data[:4096], "noname") is MediaKind.IMAGE
    assert kind_of(data[:4096], "liar.mp3") is MediaKind.IMAGE


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(format: str, orientation: int) -> None:
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = half_red(64, 32)
    stored = upright.transpose(turns[orientation]) if orientation in turns else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = open_image(encoded(stored, format, exif=exif), PIXELS, BYTES)
    assert image.size == (64, 32)
    assert near(image.getpixel((5, 10)), RED) and near(image.getpixel((60, 20)), (255, 255, 255))


def test_heic_orientation_is_applied_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = half_red(64, 32).transpose(Image.Transpose.ROTATE_90)
    image = open_image(encoded(stored, "HEIF", exif=exif.tobytes()), PIXELS, BYTES)
    assert image.size == (64, 32) and near(image.getpixel((5, 10)), RED)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_turns_nothing() -> None:
    data = encoded(half_red(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff garbage")
    assert open_image(data, PIXELS, BYTES).size == (40, 20)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_lies_on_white(mode: str) -> None:
    clear = Image.new("RGBA", (10, 10), (0, 0, 0, 0)).convert("LA" if mode == "LA" else "RGBA")
    format = "PNG"
    if mode == "PA":
        clear = clear.convert("RGBA").quantize(4)
        format = "PNG"
    assert open_image(encoded(clear, format), PIXELS, BYTES).getpixel((5, 5)) == (255, 255, 255)


def test_transparent_colour_of_palettes_and_truecolour_lies_on_white() -> None:
    palette = Image.new("P", (10, 10), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    gif = encoded(palette, "GIF", transparency=0)
    assert open_image(gif, PIXELS, BYTES).getpixel((5, 5)) == (255, 255, 255)
    rgb = encoded(Image.new("RGB", (10, 10), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    assert open_image(rgb, PIXELS, BYTES).getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LAB"])
def test_every_colour_mode_becomes_rgb(mode: str) -> None:
    source = half_red().convert(mode) if mode != "LAB" else Image.new("LAB", (40, 20))
    format = {"1": "PNG", "L": "PNG", "P": "PNG", "CMYK": "JPEG", "YCbCr": "JPEG", "LAB": "TIFF"}[mode]
    image = open_image(encoded(source, format), PIXELS, BYTES)
    assert image.mode == "RGB" and image.size == (40, 20)
    if mode in ("CMYK", "P"):
        assert near(image.getpixel((5, 10)), RED)


@pytest.mark.parametrize(
    ("dtype", "format", "top"),
    [
        (np.uint16, "PNG", 65535),
        (np.uint16, "TIFF", 65535),
        (np.float32, "TIFF", 1.0),
        (np.int32, "TIFF", 65535),
    ],
)
def test_deep_greys_are_scaled_not_clipped(dtype: type, format: str, top: float) -> None:
    ramp = (np.linspace(0, 1, 256) * top).astype(dtype).reshape(1, 256).repeat(4, 0)
    image = open_image(encoded(Image.fromarray(ramp), format), PIXELS, BYTES)
    row = [image.getpixel((x, 1))[0] for x in range(256)]  # type: ignore[index]
    assert row[0] < 3 and row[255] > 252 and abs(row[128] - 128) < 4 and row == sorted(row)


def test_sixteen_bit_colour_keeps_its_hues() -> None:
    rows = b"".join(b"\0" + struct.pack(">HHH", 56000, 5000, 5000) * 8 for _ in range(8))
    assert near(open_image(png(8, 8, rows, depth=16), PIXELS, BYTES).getpixel((4, 4)), (218, 19, 19))


def test_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue", "green")]
    for format in ("GIF", "WEBP", "PNG", "AVIF"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        assert near(open_image(data, PIXELS, BYTES).getpixel((10, 10)), (255, 0, 0)), format


def png(width: int, height: int, raw: bytes, depth: int = 8) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def bombs() -> dict[str, bytes]:
    webp = bytearray(encoded(half_red(), "WEBP", save_all=True, append_images=[Image.new("RGB", (40, 20), "blue")]))
    webp[24:30] = b"\xfe\xff\x00\xfe\xff\x00"
    gif = bytearray(encoded(half_red(), "GIF"))
    gif[6:10] = b"\xff\xff\xff\xff"
    bmp = bytearray(encoded(half_red(), "BMP"))
    bmp[18:26] = struct.pack("<ii", 50_000, 50_000)
    return {"png": png(50_000, 50_000, b"\0" * 1000), "webp": bytes(webp), "gif": bytes(gif), "bmp": bytes(bmp)}


@pytest.mark.parametrize("name", ["png", "webp", "gif", "bmp"])
def test_a_decompression_bomb_is_refused_by_its_header(name: str) -> None:
    data = bombs()[name]
    for look in (lambda: open_image(data, PIXELS, BYTES), lambda: image_header(data)):
        with pytest.raises(TooLarge, match=r"limits\.image_pixels"):
            look()


def test_limits_are_exact_and_told() -> None:
    data = encoded(half_red(), "PNG")
    assert open_image(data, 800, len(data)).size == (40, 20)
    with pytest.raises(TooLarge, match="40 x 20 pixels"):
        open_image(data, 799, BYTES)
    with pytest.raises(TooLarge, match="bytes"):
        open_image(data, PIXELS, len(data) - 1)


def test_what_is_no_image_is_unsupported_and_what_is_damaged_is_bad() -> None:
    with pytest.raises(UnsupportedMedia, match="no image"):
        open_image(b"hello, I am a text", PIXELS, BYTES)
    with pytest.raises(UnsupportedMedia):
        open_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", PIXELS, BYTES)
    with pytest.raises(BadRequest, match="empty"):
        open_image(b"", PIXELS, BYTES)
    noise = Image.effect_noise((200, 200), 90).convert("RGB")
    for format in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "HEIF", "AVIF"):
        data = encoded(noise, format)
        with pytest.raises((BadRequest, UnsupportedMedia)) as caught:
            open_image(data[: len(data) // 2], PIXELS, BYTES)
        assert "\n" not in caught.value.message, format


@settings(max_examples=examples(150), deadline=None)
@given(st.data())
def test_no_bytes_make_anything_but_an_image_or_a_sentence(data: st.DataObject) -> None:
    seed = data.draw(st.sampled_from(_SEEDS))
    spoilt = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 8))):
        spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    spoilt = spoilt[: data.draw(st.integers(1, len(spoilt)))]
    try:
        assert open_image(bytes(spoilt), 1_000_000, BYTES).mode == "RGB"
    except BatchError as error:
        assert error.status in (400, 413, 415)


_SEEDS = [encoded(half_red(), f) for f in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF")]


@pytest.mark.parametrize(
    ("head", "name", "kind"),
    [
        (b"RIFF\x24\0\0\0WAVEfmt ", "a", "audio"),
        (b"RIFF\x24\0\0\0AVI LIST", "a", "video"),
        (b"ID3\x04\0\0\0\0\x10\x00TIT2", "a", "audio"),
        (b"\xff\xfb\x90\x64" + bytes(20), "a", "audio"),
        (b"\xff\xf1\x50\x80" + bytes(20), "a.bin", "audio"),
        (b"fLaC\0\0\0\x22", "a", "audio"),
        (b"OggS\0\2" + bytes(22) + b"\x01\x13OpusHead", "a", "audio"),
        (b"OggS\0\2" + bytes(22) + b"\x01\x2a\x80theora", "a.ogg", "video"),
        (b"\x1aE\xdf\xa3\x9fB\x86\x81\x01", "a.webm", "video"),
        (b"\x1aE\xdf\xa3\x9fB\x86\x81\x01", "a.mka", "audio"),
        (b"\0\0\0\x20ftypM4A \0\0\0\0", "a.mp4", "audio"),
        (b"\0\0\0\x20ftypisom\0\0\0\0", "a", "video"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0", "a", "video"),
        (b"\0\0\0\x20ftypheic\0\0\0\0", "a.jpg", "image"),
        (b"hello", "a.txt", "text"),
        (b"hello", "A.MD", "text"),
        ("你好".encode("gb18030"), "a.txt", "text"),
        ("你好".encode("utf-16"), "a.txt", "text"),
        (b"", "a.txt", "text"),
        (b"BMW makes cars", "a.txt", "text"),
        (b"ID3 tags are old", "a.md", "text"),
        (b"BMW makes cars", "a", "text"),
        (b"hello", "a.xyz", "unknown"),
        (b"hello", "README", "text"),
        (b"%PDF-1.7", "a.pdf", "document"),
        (b"PK\x03\x04", "a.docx", "document"),
        (b"PK\x03\x04", "a.zip", "unknown"),
        (b"text", "a.pdf", "unknown"),
        (b"PK\3\4\0\0\0\0", "a.txt", "unknown"),
        (b"\x7fELF\2\1\1\0", "a.md", "unknown"),
        (b"garbage", "a.jpg", "image"),
        (b"garbage", "a.mp3", "audio"),
    ],
)
def test_a_file_is_what_its_content_says_then_what_its_name_says(head: bytes, name: str, kind: str) -> None:
    assert kind_of(head, name) == kind


def test_a_jpeg_of_thousands_of_scans_is_refused_at_once(tmp_path: Path) -> None:
    """Each scan costs a pass over 99.8 million pixels, and takes 150 bytes: decoding would go on for minutes."""
    data = progressive_jpeg(9990, 9990, 5000)
    assert len(data) < 2_000_000
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    started = time.process_time()
    for source in (data, path):
        for read in (image_header, lambda source: open_image(source, PIXELS, BYTES)):
            with pytest.raises(BadRequest, match="5,000 scans"):
                read(source)
    assert time.process_time() - started < 10


def test_an_ordinary_progressive_jpeg_is_read() -> None:
    assert open_image(progressive_jpeg(64, 48, 60), PIXELS, BYTES).size == (64, 48)
    progressive = encoded(half_red(64, 32), "JPEG", progressive=True)
    assert near(open_image(progressive, PIXELS, BYTES).getpixel((5, 10)), RED)


def test_a_jpeg_may_be_decoded_smaller_but_not_below_what_is_asked() -> None:
    out = io.BytesIO()
    Image.new("RGB", (1600, 1200), "red").save(out, "JPEG")
    small = open_image(out.getvalue(), 10_000_000, 1 << 20, least_side=160)
    assert 160 <= small.height < 1200 and small.width * 3 == small.height * 4
    assert open_image(out.getvalue(), 10_000_000, 1 << 20).size == (1600, 1200)
