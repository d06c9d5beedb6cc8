"""Pictures in: every format and oddity becomes plain RGB, and none may take the machine's memory."""

from __future__ import annotations

import contextlib
import io
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pillow_heif
from PIL import Image, ImageOps, UnidentifiedImageError

from batch.errors import BadRequest, BatchError, TooLarge, UnsupportedMedia
from batch.media.formats import PICTURE_PLUGINS

_NAMES = "JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC and AVIF"
_BAND_PIXELS = 1 << 20
"""What is laid on white at a time."""
MAX_JPEG_SCANS = 100
"""A progressive JPEG has about ten; each one makes the decoder go over all pixels again."""
SEEN_PIXELS = 8_000_000
"""No picture is made smaller than this; from four times as many on it is halved. Scaling 100 million took a model 10 s."""
_SCAN_MARKER = b"\xff\xda"
_READ_BYTES = 1 << 20
_ORIENTATION = 0x0112

pillow_heif.register_heif_opener()
pillow_heif.options.DECODE_THREADS = 1
# Pillow's own guard knows no size in its message and only warns up to twice its limit; `_check` takes its place.
Image.MAX_IMAGE_PIXELS = None
# "Corrupt EXIF data" and the like: what does not stop a picture from being read is nobody's business here.
warnings.filterwarnings("ignore", module=r"PIL\.")


def open_image(
    source: bytes | str | os.PathLike[str], max_pixels: int, max_bytes: int, least_side: int | None = None
) -> Image.Image:
    """The first frame, upright, as an RGB image; transparency lies on white.

    `source` is the file's bytes or its path. With `least_side` a JPEG may be decoded smaller than it is, in a fraction of the
    time, but to no side below so many pixels. Raises UnsupportedMedia (no picture), TooLarge, BadRequest (damaged).
    """
    with _opened(source, max_pixels, max_bytes) as image:
        image.seek(0)
        if least_side is not None:
            image.draft(None, (least_side, least_side))
        image.load()
        return _rgb(_upright(image))


def shrink_factor(width: int, height: int) -> int:
    """By what a very large picture is made smaller, side by side, before a model sees it: models look at a few megapixels."""
    return max(1, math.isqrt(width * height // SEEN_PIXELS))


def image_header(
    source: bytes | str | os.PathLike[str], max_pixels: int = 100_000_000, max_bytes: int = 64 << 20
) -> tuple[str, int, int]:
    """(format in lower case, width, height) as stored, before any turning, without decoding; raises as `open_image`."""
    with _opened(source, max_pixels, max_bytes) as image:
        return (image.format or "").lower().replace("mpo", "jpeg"), image.width, image.height


@contextlib.contextmanager
def _opened(source: bytes | str | os.PathLike[str], max_pixels: int, max_bytes: int) -> Iterator[Image.Image]:
    """Open the header, refuse by it, and turn what Pillow may throw at any time into sentences."""
    size = len(source) if isinstance(source, bytes) else os.stat(source).st_size
    if size > max_bytes:
        raise TooLarge(f"The image has {size:,} bytes; at most {max_bytes:,} are taken (limits.image_bytes).")
    if size == 0:
        raise BadRequest("The image is empty: it has no bytes.")
    with contextlib.ExitStack() as stack:
        file = io.BytesIO(source) if isinstance(source, bytes) else stack.enter_context(Path(source).open("rb"))
        canvas = _webp_canvas(file.read(30))
        file.seek(0)
        if canvas is not None:  # Pillow allocates it before anybody can look
            _check(*canvas, max_pixels)
        try:
            image = stack.enter_context(Image.open(file, formats=PICTURE_PLUGINS))
            _check(image.width, image.height, max_pixels)
            if image.format in ("JPEG", "MPO"):
                _check_scans(file)
            yield image
        except BatchError:
            raise
        except UnidentifiedImageError:
            raise UnsupportedMedia(f"This is no image that can be read here: {_NAMES} are.") from None
        except MemoryError:
            raise TooLarge("The image needs more memory than there is.") from None
        except OSError as error:
            if error.errno is not None:  # the disk's trouble, not the picture's
                raise
            raise BadRequest(f"The image is damaged: {_reason(error)}.") from None
        except Exception as error:  # Pillow's readers let struct.error, zlib.error, IndexError and more through
            raise BadRequest(f"The image is damaged: {_reason(error)}.") from None


def _check(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise BadRequest(f"The image is damaged: it says it is {width} x {height} pixels.")
    if width * height > max_pixels:
        raise TooLarge(f"The image has {width} x {height} pixels; at most {max_pixels:,} are taken (limits.image_pixels).")


def _check_scans(file: BinaryIO) -> None:
    """Refuse a JPEG of thousands of scans; the file is left where it stood."""
    stood, scans, last = file.tell(), 0, b""
    file.seek(0)
    # Inside compressed data the marker's first byte is always followed by another one than the marker's second.
    while data := file.read(_READ_BYTES):
        scans += (last + data).count(_SCAN_MARKER)
        last = data[-1:]
    file.seek(stood)
    if scans > MAX_JPEG_SCANS:
        raise BadRequest(f"The image is a JPEG of {scans:,} scans; at most {MAX_JPEG_SCANS} are decoded: save it anew.")


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"


def _webp_canvas(head: bytes) -> tuple[int, int] | None:
    """Width and height that a WebP file's first chunk tells; None when it is no WebP or tells none."""
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < 30:
        return None
    match head[12:16]:
        case b"VP8X":
            return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
        case b"VP8 ":
            return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
        case b"VP8L":
            bits = int.from_bytes(head[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; EXIF that cannot be read turns nothing."""
    try:
        turned = image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    except Exception:  # a broken EXIF block is no reason to refuse a good picture
        return image
    if not turned:
        return image
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # it is written back after turning, and may fail there for the rest of the block
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _on_white(image)
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _on_white(image: Image.Image) -> Image.Image:
    """A band at a time, as whole copies of a picture of the largest size are hundreds of megabytes each."""
    whole = Image.new("RGB", image.size)
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(image.height, top + rows))).convert("RGBA")
        white = Image.new("RGBA", band.size, (255, 255, 255, 255))
        whole.paste(Image.alpha_composite(white, band).convert("RGB"), (0, top))
    return whole


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow clips deep greys at 255 when it converts them; scale them instead."""
    if image.mode.startswith("I;16"):
        image = image.convert("I")
        low, high = 0.0, 65535.0
    else:
        extrema = image.getextrema()
        low, high = (float(value) for value in extrema)  # type: ignore[arg-type]
        if image.mode == "I" and low >= 0:
            low, high = 0.0, 255.0 if high <= 255 else 65535.0 if high <= 65535 else high
        elif image.mode == "F" and low >= 0 and high <= 1:
            low, high = 0.0, 1.0
        elif image.mode == "F" and low >= 0 and high <= 255:
            low, high = 0.0, 255.0
    if not high > low or high - low == float("inf"):  # one single value, or not numbers
        return Image.new("L", image.size, 255 if high > 0 else 0)
    scale = 255.0 / (high - low)
    return image.convert("F").point(lambda value: value * scale - low * scale).convert("L")
