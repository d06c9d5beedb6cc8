"""Files that were made to harm: small ones that want to be large, and such."""

from __future__ import annotations

import struct
import zlib


def png_bomb(width: int, height: int) -> bytes:
    """A black picture: a few bytes for a thousand pixels."""
    packer = zlib.compressobj(9)
    row = bytes(1 + 3 * width)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", header) + _png_chunk(b"IDAT", packed) + _png_chunk(b"IEND", b"")


def with_cover(mp3: bytes, picture: bytes) -> bytes:
    """An MP3 file with a cover."""
    body = b"\0image/png\0\x03\0" + picture
    frame = b"APIC" + struct.pack(">I", len(body)) + b"\0\0" + body
    size = bytes(len(frame) >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3\x03\0\0" + size + frame + mp3


def progressive_jpeg(width: int, height: int, scans: int) -> bytes:
    """A grey picture whose coefficients, all 0, come in ever more scans, each of which says so in a few bytes."""

    def segment(marker: int, data: bytes) -> bytes:
        return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data

    def packed(bits: str) -> bytes:
        bits += "1" * (-len(bits) % 8)
        return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")

    blocks = -(-width // 8) * -(-height // 8)
    run = 1 << 14  # blocks without a coefficient, in one code: EOB14 and how many more
    ends = packed(("0" + format(run - 1, "014b")) * -(-blocks // (2 * run - 1)))
    one_code = bytes([1] + [0] * 15)
    head = [
        b"\xff\xd8",
        segment(0xDB, b"\0" + b"\1" * 64),
        segment(0xC2, struct.pack(">BHHB", 8, height, width, 1) + b"\1\x11\0"),
        segment(0xC4, b"\0" + one_code + b"\0"),
        segment(0xC4, b"\x10" + one_code + b"\xe0"),
        segment(0xDA, b"\1\1\0\0\0\0") + packed("0" * blocks),
    ]
    more = [segment(0xDA, b"\1\1\0" + bytes([k, k, 0])) + ends for k in (1 + i % 63 for i in range(scans - 1))]
    return b"".join([*head, *more, b"\xff\xd9"])


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
