"""Whisper large-v3-turbo's shape with random weights that say the same sentence in each window: its words mean nothing, what it
costs is what the real one costs.

    python bench/whisper_turbo_shape.py   writes it once into the user's cache and prints its path

32 encoder and 4 decoder layers, width 1280, 20 heads, 128 mels, 51,866 tokens, f16: 1.6 GB. A decoder of random weights never
ends by itself. So a few of the last layer's hidden units know one token each, and answer with the next one: a time stamp, words
(about what is said in half a minute), a time stamp, the end. All else is random, and little of it reaches the residual stream.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from peer import CACHE, write_once

from batch.settings import default_models_dir

PATH = CACHE / "whisper-turbo-sentence.bin"
TOKEN_SOURCES = ("ggml-base.bin", "ggml-tiny.en.bin", "ggml-tiny.en-q5_1.bin")
"""Models whose list of tokens will do, the first that is there; the words of both lists have the same numbers but for a few."""

MAGIC = 0x67676D6C
VOCABULARY, AUDIO_CONTEXT, TEXT_CONTEXT, WIDTH, HEADS, MELS = 51_866, 1500, 448, 1280, 20, 128
ENCODER_LAYERS, DECODER_LAYERS = 32, 4
LAST_LAYER = f"decoder.blocks.{DECODER_LAYERS - 1}"
F16 = 1
FREQUENCY_BINS = 201

TRANSCRIBE, FIRST_TIMESTAMP, END = 50_360, 50_365, 50_257
LAST_TIMESTAMP = FIRST_TIMESTAMP + 1499
"""29.98 seconds."""
WORDS = 60
RESIDUAL_SCALE = 0.005
"""Of what the decoder's random layers add to a token: a tenth of it in all."""
TOKEN_NORM, ANSWER_NORM = 2.1, 20.0
"""Lengths of a known token's vector, and of what is added for the one after it."""
UNIT_BIAS, UNIT_VALUE = -16.0, 17.6
"""A unit's bias, and what is left of it when it sees its token: 0.94 of the width's root."""


NAME = "turbo-shape"


def named(model: Path) -> Path:
    """The file that a benchmark's `--model` names: this one's by its name."""
    if str(model) != NAME:
        return model
    shape = path()
    if shape is None:
        raise SystemExit(f"{default_models_dir()} has no {TOKEN_SOURCES[0]}: `batch models pull whisper-base`.")
    return shape


def path() -> Path | None:
    """Where it lies, written first where it is not there; None without a Whisper model, whose tokens it needs."""
    if _token_source() is not None:
        write_once(PATH, _write)
    return PATH if PATH.is_file() else None


def _token_source() -> Path | None:
    return next((path for name in TOKEN_SOURCES if (path := default_models_dir() / name).is_file()), None)


def _write(target: Path) -> None:
    with target.open("wb") as file:
        _write_model(file)


def _write_model(file: BinaryIO) -> None:
    sizes = (VOCABULARY, AUDIO_CONTEXT, WIDTH, HEADS, ENCODER_LAYERS, TEXT_CONTEXT, WIDTH, HEADS, DECODER_LAYERS, MELS, F16)
    file.write(struct.pack("<12i", MAGIC, *sizes))
    random = np.random.default_rng(1)
    filters = np.abs(random.normal(0, 0.01, (MELS, FREQUENCY_BINS))).astype("<f4")
    file.write(struct.pack("<2i", *filters.shape) + filters.tobytes())
    tokens, words = _tokens()
    file.write(tokens)
    chain = [TRANSCRIBE, FIRST_TIMESTAMP, *words, LAST_TIMESTAMP, END]
    vectors = random.standard_normal((len(chain), WIDTH))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pool = (random.standard_normal(1 << 20) * 0.02).astype(np.float16)
    quiet = (pool * RESIDUAL_SCALE).astype(np.float16)
    for name, shape, single in _tensors():
        writes = name.startswith("decoder") and ("attn.out." in name or "mlp.2." in name)
        array: NDArray[np.float16] | NDArray[np.float32] = np.resize(quiet if writes else pool, shape)
        if name.endswith(("ln.weight", "ln_post.weight")):
            array = np.ones(shape, np.float32)
        if single:
            array = array.astype("<f4")
        if name == "decoder.token_embedding.weight":
            array[chain] = vectors * TOKEN_NORM
        elif name == f"{LAST_LAYER}.mlp.0.weight":
            array[: len(chain) - 1] = vectors[:-1]
        elif name == f"{LAST_LAYER}.mlp.0.bias":
            array[: len(chain) - 1] = UNIT_BIAS
        elif name == f"{LAST_LAYER}.mlp.2.weight":
            array[:, : len(chain) - 1] = vectors[1:].T * (ANSWER_NORM / UNIT_VALUE)
        encoded = name.encode()
        file.write(struct.pack("<3i", len(shape), len(encoded), 0 if single else F16))
        file.write(struct.pack(f"<{len(shape)}i", *shape[::-1]) + encoded + array.tobytes())


def _tokens() -> tuple[bytes, list[int]]:
    """A model's token list as it stands in its file (a count, then length and bytes of each), and the numbers of some words."""
    source = _token_source()
    assert source is not None
    data = source.read_bytes()
    mels, bins = struct.unpack_from("<2i", data, 48)
    start = 56 + 4 * mels * bins
    (count,) = struct.unpack_from("<i", data, start)
    end, words = start + 4, []
    for number in range(count):
        (length,) = struct.unpack_from("<i", data, end)
        end += 4 + length
        if len(words) < WORDS and number >= 1000 and re.fullmatch(rb" [a-z]{4,}", data[end - length : end]):
            words.append(number)
    return data[start:end], words


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
    print(path() or f"{default_models_dir()} has no {TOKEN_SOURCES[0]}: `batch models pull whisper-base`")
