"""CTranslate2's Whisper (model.bin of faster-whisper) to whisper.cpp's ggml, byte for byte the published files.

CTranslate2, little-endian: u32 version, str spec, u32 revision, u32 count, then per variable str name, u8 rank,
u32 dims[rank], u8 type, u32 bytes, data; then u32 count and pairs of str alias, target.
str: u16 length with the closing NUL, bytes, NUL. Types: 0 f32, 1 i8, 2 i16, 3 i32, 4 f16, 5 bf16.

ggml: i32 magic, 11 hyper-parameters, i32 mels, i32 bins, f32 filters, i32 tokens, per token i32 length and bytes,
then per tensor i32 rank, name length, type (0 f32, 1 f16), dims in reverse, name, data.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from batch.errors import ModelProblem

if TYPE_CHECKING:  # numpy is loaded only when something is converted
    import numpy as np

    Arrays: TypeAlias = dict[str, np.ndarray[Any, np.dtype[Any]]]

INPUT_FILES = ("model.bin", "vocabulary.txt")
"""The files `convert` reads from its folder."""

MAGIC = 0x67676D6C
_END = "<|endoftext|>"
_MULTILINGUAL_TOKENS = 51865
"""Tokens of a multilingual vocabulary; English-only ones are smaller."""


def convert(folder: Path, out: Path) -> None:
    """Write `out` from the INPUT_FILES below `folder`; raises ModelProblem when they are not a Whisper model."""
    import numpy as np

    source = _read(memoryview((folder / "model.bin").read_bytes()), folder / "model.bin")
    tensors = _upstream_order(_openai_names(source))
    tokens = _text_tokens((folder / "vocabulary.txt").read_bytes().decode("utf-8"))
    with out.open("wb") as file:
        filters = mel_filters(tensors["encoder.conv1.weight"].shape[1])
        file.write(struct.pack("<12i", MAGIC, *_hyperparameters(source, tensors)))
        file.write(struct.pack("<2i", *filters.shape))
        file.write(filters.tobytes())
        file.write(struct.pack("<i", len(tokens)))
        for token in tokens:
            file.write(struct.pack("<i", len(token)) + token)
        for name, array in tensors.items():
            conv_bias = name in ("encoder.conv1.bias", "encoder.conv2.bias")
            array = array.reshape(-1, 1) if conv_bias else array
            keep32 = array.ndim < 2 or conv_bias or name.endswith(".positional_embedding")
            array = np.ascontiguousarray(array, "<f4" if keep32 else "<f2")
            encoded = name.encode()
            file.write(struct.pack("<3i", array.ndim, len(encoded), 0 if keep32 else 1))
            file.write(struct.pack(f"<{array.ndim}i", *array.shape[::-1]))
            file.write(encoded)
            file.write(array.tobytes())


@dataclass
class _Source:
    """What a CTranslate2 file holds."""

    tensors: Arrays = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.tensors or name in self.aliases

    def get(self, name: str) -> Any:
        """The array, with a quantisation to integers undone."""
        import numpy as np

        array = self.tensors[self.aliases.get(name, name)]
        if array.dtype.kind != "i":
            return array
        scale = self.tensors[self.aliases.get(name + "_scale", name + "_scale")].astype(np.float32)
        if scale.ndim == 1 and scale.size > 1:
            scale = scale[:, None]  # one scale a row of the output
        return array.astype(np.float32) / scale

    def layers(self, side: str) -> int:
        return 1 + max(
            int(n.split("/")[1][6:])
            for n in self.tensors
            if n.startswith(f"{side}/layer_") and not n.startswith(f"{side}/layer_norm")
        )


class _Reader:
    def __init__(self, data: memoryview, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0

    def number(self, code: str) -> int:
        (value,) = struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))
        return int(value)

    def text(self) -> str:
        return bytes(self.take(self.number("H"))[:-1]).decode("utf-8")

    def take(self, size: int) -> memoryview:
        piece = self.data[self.at : self.at + size]
        if len(piece) != size:
            raise ModelProblem(f"{self.path} is cut short.")
        self.at += size
        return piece


def _read(data: memoryview, path: Path) -> _Source:
    import numpy as np

    types = {0: "<f4", 1: "i1", 2: "<i2", 3: "<i4", 4: "<f2"}
    reader, source = _Reader(data, path), _Source()
    version = reader.number("I")
    if not 4 <= version <= 6:
        raise ModelProblem(f"{path} is of CTranslate2's version {version}, which this converter does not read.")
    if (spec := reader.text()) != "WhisperSpec":
        raise ModelProblem(f"{path} holds a {spec} model, not a Whisper.")
    reader.number("I")
    for _ in range(reader.number("I")):
        name = reader.text()
        shape = [reader.number("I") for _ in range(reader.number("B"))]
        kind = reader.number("B")
        raw = reader.take(reader.number("I"))
        if kind == 5:  # bf16 is the upper half of f32
            array = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
        elif kind in types:
            array = np.frombuffer(raw, types[kind])
        else:
            raise ModelProblem(f"{path} holds {name} as type {kind}, which this converter does not read.")
        source.tensors[name] = array.reshape(shape)
    for _ in range(reader.number("I")):
        alias = reader.text()
        source.aliases[alias] = reader.text()
    if reader.at != len(data):
        raise ModelProblem(f"{path} has {len(data) - reader.at} bytes too many.")
    return source


def _openai_names(source: _Source) -> Arrays:
    """The tensors under the names of OpenAI's checkpoints."""
    import numpy as np

    projection = source.aliases.get("decoder/projection/weight", "decoder/projection/weight")
    embedding = source.get("decoder/embeddings/weight")
    if projection != "decoder/embeddings/weight" and not np.array_equal(source.get(projection), embedding):
        raise ModelProblem("The output projection differs from the embedding, which whisper.cpp cannot hold.")
    out = {"decoder.token_embedding.weight": embedding}

    def linear(target: str, name: str, parts: int = 1, part: int = 0) -> None:
        """Copy weight and bias, or one of the equal parts of a fused projection."""
        for ending in ("weight", "bias"):
            if f"{name}/{ending}" not in source:
                continue
            array = np.split(source.get(f"{name}/{ending}"), parts)[part]
            if ending == "bias" and target.endswith(".key"):
                if np.abs(array).max() != 0:
                    raise ModelProblem(f"{target} has a bias, which Whisper's keys have not.")
                continue
            out[f"{target}.{ending}"] = array

    def norm(target: str, name: str) -> None:
        out[f"{target}.weight"], out[f"{target}.bias"] = source.get(f"{name}/gamma"), source.get(f"{name}/beta")

    for side in ("encoder", "decoder"):
        out[f"{side}.positional_embedding"] = source.get(f"{side}/position_encodings/encodings")
        for layer in range(source.layers(side)):
            block, name = f"{side}.blocks.{layer}", f"{side}/layer_{layer}"
            for part, role in enumerate(("query", "key", "value")):
                linear(f"{block}.attn.{role}", f"{name}/self_attention/linear_0", 3, part)
            linear(f"{block}.attn.out", f"{name}/self_attention/linear_1")
            norm(f"{block}.attn_ln", f"{name}/self_attention/layer_norm")
            if side == "decoder":
                linear(f"{block}.cross_attn.query", f"{name}/attention/linear_0")
                linear(f"{block}.cross_attn.key", f"{name}/attention/linear_1", 2, 0)
                linear(f"{block}.cross_attn.value", f"{name}/attention/linear_1", 2, 1)
                linear(f"{block}.cross_attn.out", f"{name}/attention/linear_2")
                norm(f"{block}.cross_attn_ln", f"{name}/attention/layer_norm")
            linear(f"{block}.mlp.0", f"{name}/ffn/linear_0")
            linear(f"{block}.mlp.2", f"{name}/ffn/linear_1")
            norm(f"{block}.mlp_ln", f"{name}/ffn/layer_norm")
    linear("encoder.conv1", "encoder/conv1")
    linear("encoder.conv2", "encoder/conv2")
    norm("encoder.ln_post", "encoder/layer_norm")
    norm("decoder.ln", "decoder/layer_norm")
    return out


def _upstream_order(tensors: Arrays) -> Arrays:
    """The order of OpenAI's checkpoints, so that the result is the published file."""

    def names() -> Iterator[str]:
        yield from ("decoder.positional_embedding", "encoder.positional_embedding", "decoder.token_embedding.weight")
        for side in ("decoder", "encoder"):
            stems = ["encoder.conv1", "encoder.conv2"] if side == "encoder" else []
            blocks = {n.split(".")[2] for n in tensors if n.startswith(f"{side}.blocks.")}
            parts = ["mlp_ln", "mlp.0", "mlp.2", "attn_ln", *_attention("attn")]
            if side == "decoder":
                parts += ["cross_attn_ln", *_attention("cross_attn")]
            stems += [f"{side}.blocks.{block}.{part}" for block in range(len(blocks)) for part in parts]
            stems.append("decoder.ln" if side == "decoder" else "encoder.ln_post")
            yield from (f"{stem}.{ending}" for stem in stems for ending in ("weight", "bias"))

    ordered = {name: tensors[name] for name in names() if name in tensors}
    if len(ordered) != len(tensors):
        strange = ", ".join(sorted(set(tensors) - set(ordered)))
        raise ModelProblem(f"The model has tensors that a Whisper does not have: {strange}.")
    return ordered


def _attention(stem: str) -> list[str]:
    return [f"{stem}.{role}" for role in ("query", "key", "value", "out")]


def _hyperparameters(source: _Source, tensors: Arrays) -> list[int]:
    """vocab, audio ctx, state, heads, layers, text ctx, state, heads, layers, mels, f16."""
    width, mels = tensors["encoder.conv1.weight"].shape[:2]
    vocabulary, text_width = tensors["decoder.token_embedding.weight"].shape

    def heads(side: str) -> int:
        name = f"{side}/num_heads"
        return int(source.tensors[name]) if name in source.tensors else width // 64  # 64 in every Whisper

    return [
        vocabulary,
        len(tensors["encoder.positional_embedding"]),
        width,
        heads("encoder"),
        source.layers("encoder"),
        len(tensors["decoder.positional_embedding"]),
        text_width,
        heads("decoder"),
        source.layers("decoder"),
        mels,
        1,
    ]


def _text_tokens(vocabulary: str) -> list[bytes]:
    """The bytes of each token before the end-of-text token, from GPT-2's printable spelling."""
    spelled = vocabulary.removesuffix("\n").split("\n")  # no splitlines: tokens may hold other line ends
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    byte_of = {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}
    tokens = [bytes(byte_of[char] for char in token) for token in spelled[: spelled.index(_END)]]
    if len(spelled) < _MULTILINGUAL_TOKENS:
        tokens.append(_END.encode())  # the published English-only files name this one too
    return tokens


def mel_filters(mels: int, rate: int = 16000, window: int = 400) -> Any:
    """Triangular filters [mels, window/2 + 1] on Slaney's mel scale with his norm, as librosa's mel() makes them."""
    import numpy as np

    step, knee, log_step = 200 / 3, 1000.0, np.log(6.4) / 27
    knee_mel = knee / step

    def to_mel(hertz: float) -> float:
        return hertz / step if hertz < knee else knee_mel + float(np.log(hertz / knee)) / log_step

    mel = np.linspace(to_mel(0), to_mel(rate / 2), mels + 2)
    hertz = np.where(mel >= knee_mel, knee * np.exp(log_step * (mel - knee_mel)), step * mel)
    width = np.diff(hertz)
    ramps = hertz[:, None] - np.linspace(0, rate / 2, window // 2 + 1)[None, :]
    rising, falling = -ramps[:-2] / width[:-1, None], ramps[2:] / width[1:, None]
    # librosa rounds to f32 here and again after the norm; + 0.0 turns -0.0 into 0.0
    weights = (np.maximum(0, np.minimum(rising, falling)) + 0.0).astype("<f4")
    weights *= (2.0 / (hertz[2:] - hertz[:-2]))[:, None]
    return weights
