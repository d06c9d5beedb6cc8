"""ggml's file of a Whisper model: whether it is one, and whole. whisper.cpp loads a cut one without a word."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

from batch.errors import ModelProblem

_MAGIC = 0x67676D6C
_HEADER_BYTES = 48
_BLOCKS = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    30: (1, 2),
}
"""Items and bytes of a block, by the number of the tensor's type."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What a file's header says of the model's text decoder."""

    vocabulary: int
    width: int
    layers: int


def check_ggml_file(path: Path) -> ModelShape:
    """The shape of a whole ggml Whisper file. Raises ModelProblem, with a sentence that names the file, for another."""
    if not path.is_file():
        raise ModelProblem(f"{path} is not there: fetch the speech model or set stt.model to a ggml Whisper file.")
    size = path.stat().st_size
    cut = ModelProblem(f"{path} is cut short: fetch it again.")
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
        if len(head) < _HEADER_BYTES or struct.unpack_from("<I", head)[0] != _MAGIC:
            raise ModelProblem(f"{path} is not a ggml Whisper model (its first bytes are not those of one).")
        vocabulary, _, _, _, _, _, width, _, layers = struct.unpack_from("<9i", head, 4)
        shape = ModelShape(vocabulary, width, layers)
        try:
            rows, columns = struct.unpack("<2i", file.read(8))
            file.seek(rows * columns * 4, 1)  # the mel filters
            for _ in range(struct.unpack("<i", file.read(4))[0]):  # the vocabulary
                file.seek(struct.unpack("<i", file.read(4))[0], 1)
            while file.tell() < size:
                dimensions, name_bytes, kind = struct.unpack("<3i", file.read(12))
                sizes = struct.unpack(f"<{dimensions}i", file.read(4 * dimensions))
                if kind not in _BLOCKS:
                    return shape  # a newer quantisation: whisper.cpp is to judge
                items, block_bytes = _BLOCKS[kind]
                file.seek(name_bytes + prod(sizes) // items * block_bytes, 1)
        except (struct.error, OSError, ValueError):
            raise cut from None
        if file.tell() != size:
            raise cut
    return shape
