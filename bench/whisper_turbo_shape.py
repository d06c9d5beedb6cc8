"""Whisper large-v3-turbo's shape with random weights: its words mean nothing, an encoder pass costs what the real one's does.

    python bench/whisper_turbo_shape.py   writes it once into the user's cache and prints its path

32 encoder and 4 decoder layers, width 1280, 20 heads, 128 mels, 51,866 tokens, f16: 1.6 GB. The decoder of random weights
never ends by itself, so what it costs to decode says little: benchmarks look at the encoder's passes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from peer import CACHE, write_once

from batch.settings import default_models_dir

PATH = CACHE / "whisper-turbo-shape.bin"
BASE = default_models_dir() / "ggml-base.bin"
"""Whose tokens it takes."""

MAGIC = 0x67676D6C
VOCABULARY, AUDIO_CONTEXT, TEXT_CONTEXT, WIDTH, HEADS, MELS = 51_866, 1500, 448, 1280, 20, 128
ENCODER_LAYERS, DECODER_LAYERS = 32, 4
F16 = 1
FREQUENCY_BINS = 201


def path() -> Path | None:
    """Where it lies, written first where it is not there; None without Whisper base, whose tokens it needs."""
    if BASE.is_file():
        write_once(PATH, _write)
    return PATH if PATH.is_file() else None


def _write(target: Path) -> None:
    with target.open("wb") as file:
        _write_model(file)


def _write_model(file: BinaryIO) -> None:
    sizes = (VOCABULARY, AUDIO_CONTEXT, WIDTH, HEADS, ENCODER_LAYERS, TEXT_CONTEXT, WIDTH, HEADS, DECODER_LAYERS, MELS, F16)
    file.write(struct.pack("<12i", MAGIC, *sizes))
    random = np.random.default_rng(1)
    filters = np.abs(random.normal(0, 0.01, (MELS, FREQUENCY_BINS))).astype("<f4")
    file.write(struct.pack("<2i", *filters.shape) + filters.tobytes())
    file.write(_tokens())
    pool = (random.standard_normal(1 << 20) * 0.02).astype(np.float16)
    for name, shape, single in _tensors():
        array: NDArray[np.float16] | NDArray[np.float32] = np.resize(pool, shape)
        if name.endswith(("ln.weight", "ln_post.weight")):
            array = np.ones(shape, np.float32)
        if single:
            array = array.astype("<f4")
        encoded = name.encode()
        file.write(struct.pack("<3i", len(shape), len(encoded), 0 if single else F16))
        file.write(struct.pack(f"<{len(shape)}i", *shape[::-1]) + encoded + array.tobytes())


def _tokens() -> bytes:
    """Whisper base's token list as it stands in its file: a count, then length and bytes of each."""
    data = BASE.read_bytes()
    mels, bins = struct.unpack_from("<2i", data, 48)
    start = 56 + 4 * mels * bins
    (count,) = struct.unpack_from("<i", data, start)
    end = start + 4
    for _ in range(count):
        (length,) = struct.unpack_from("<i", data, end)
        end += 4 + length
    return data[start:end]


def _tensors() -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """(name, shape, whether it is kept in single precision), in the order of the published files."""
    yield "encoder.positional_embedding", (AUDIO_CONTEXT, WIDTH), True
    yield "encoder.conv1.weight", (WIDTH, MELS, 3), False
    yield "encoder.conv1.bias", (WIDTH, 1), True
    yield "encoder.conv2.weight", (WIDTH, WIDTH, 3), False
    yield "encoder.conv2.bias", (WIDTH, 1), True
    for layer in range(ENCODER_LAYERS):
        yield from _block(f"encoder.blocks.{layer}", ("attn",))
    yield from _norm("encoder.ln_post")
    yield "decoder.positional_embedding", (TEXT_CONTEXT, WIDTH), True
    yield "decoder.token_embedding.weight", (VOCABULARY, WIDTH), False
    for layer in range(DECODER_LAYERS):
        yield from _block(f"decoder.blocks.{layer}", ("attn", "cross_attn"))
    yield from _norm("decoder.ln")


def _block(prefix: str, attentions: tuple[str, ...]) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    for attention in attentions:
        yield from _norm(f"{prefix}.{attention}_ln")
        for name in ("query", "key", "value", "out"):
            yield f"{prefix}.{attention}.{name}.weight", (WIDTH, WIDTH), False
            if name != "key":
                yield f"{prefix}.{attention}.{name}.bias", (WIDTH,), True
    yield from _norm(f"{prefix}.mlp_ln")
    yield f"{prefix}.mlp.0.weight", (4 * WIDTH, WIDTH), False
    yield f"{prefix}.mlp.0.bias", (4 * WIDTH,), True
    yield f"{prefix}.mlp.2.weight", (WIDTH, 4 * WIDTH), False
    yield f"{prefix}.mlp.2.bias", (WIDTH,), True


def _norm(prefix: str) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    yield f"{prefix}.weight", (WIDTH,), True
    yield f"{prefix}.bias", (WIDTH,), True


if __name__ == "__main__":
    print(path() or f"{BASE} is not there: `batch models pull whisper-base`")
