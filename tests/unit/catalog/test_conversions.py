"""Converting weights: what is not the expected model is refused by name, never half-converted."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from batch.catalog import minilm_gguf, whisper_ggml
from batch.errors import ModelProblem


def ct2(spec: str = "WhisperSpec", version: int = 6, tail: bytes = b"\0\0\0\0\0\0\0\0") -> bytes:
    """The start of a CTranslate2 file; the tail: no variables, no aliases."""
    return struct.pack("<IH", version, len(spec) + 1) + spec.encode() + b"\0" + struct.pack("<I", 3) + tail


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"model\.bin is cut short"),
        (ct2()[:-2], r"model\.bin is cut short"),
        (ct2(version=9), r"version 9, which this converter does not read"),
        (ct2("TransformerSpec"), r"holds a TransformerSpec model, not a Whisper"),
        (ct2(tail=bytes(11)), r"has 3 bytes too many"),
        (ct2(tail=struct.pack("<IH2sBIBI", 1, 2, b"w\0", 1, 1, 7, 4) + bytes(8)), r"holds w as type 7"),
    ],
)
def test_what_is_no_whisper_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "model.bin").write_bytes(content)
    (tmp_path / "vocabulary.txt").write_text("<|endoftext|>\n")
    with pytest.raises(ModelProblem, match=reason):
        whisper_ggml.convert(tmp_path, tmp_path / "out.bin")
    assert not (tmp_path / "out.bin").exists()


def test_the_mel_filters_cover_the_band_once() -> None:
    """Slaney's norm: every triangle has the area one, so a filter's weights sum to the bins in a hertz."""
    filters = whisper_ggml.mel_filters(80)
    assert filters.shape == (80, 201) and filters.dtype == np.float32
    assert filters.min() == 0 and not np.signbit(filters).any()
    assert filters[10:].sum(axis=1) == pytest.approx(np.full(70, 1 / 40), rel=0.2)
    assert (np.diff(filters.argmax(axis=1)) >= 0).all()


def safetensors(path: Path, tensors: dict[str, tuple[str, np.ndarray]]) -> None:
    header, data = {}, b""
    for name, (kind, array) in tensors.items():
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def bert(folder: Path, **config: object) -> Path:
    (folder / "1_Pooling").mkdir()
    (folder / "config.json").write_text(
        json.dumps(
            {
                "model_type": "bert",
                "num_hidden_layers": 1,
                "max_position_embeddings": 8,
                "hidden_size": 4,
                "intermediate_size": 8,
                "num_attention_heads": 1,
                "layer_norm_eps": 1e-12,
                "vocab_size": 7,
                "type_vocab_size": 2,
                **config,
            }
        )
    )
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b"]
    (folder / "tokenizer.json").write_text(
        json.dumps(
            {
                "model": {"vocab": {piece: number for number, piece in enumerate(pieces)}},
                "added_tokens": [{"content": piece, "special": True} for piece in pieces[:5]],
                "normalizer": {"lowercase": True, "strip_accents": None},
            }
        )
    )
    return folder


def test_a_bert_keeps_its_tensors_and_its_vocabulary(tmp_path: Path) -> None:
    import gguf

    words = np.arange(28, dtype="<f4").reshape(7, 4)
    places = np.full((8, 4), 1 / 3, "<f4")
    safetensors(
        bert(tmp_path) / "model.safetensors",
        {
            "embeddings.word_embeddings.weight": ("F32", words),
            "embeddings.position_embeddings.weight": ("F32", places),
            "embeddings.position_ids": ("I64", np.arange(8, dtype="<i8")),
            "encoder.layer.0.output.LayerNorm.bias": ("F32", np.ones(4, "<f4")),
            "pooler.dense.weight": ("F32", np.ones((4, 4), "<f4")),
        },
    )
    minilm_gguf.convert(tmp_path, tmp_path / "out.gguf")
    read = gguf.GGUFReader(tmp_path / "out.gguf")
    tensors = {tensor.name: tensor.data for tensor in read.tensors}
    assert set(tensors) == {"token_embd.weight", "position_embd.weight", "blk.0.layer_output_norm.bias"}
    assert tensors["token_embd.weight"].dtype == np.float16 and (tensors["token_embd.weight"] == words).all()
    assert tensors["position_embd.weight"].dtype == np.float32 and (tensors["position_embd.weight"] == places).all()
    tokens = read.fields["tokenizer.ggml.tokens"]
    assert [bytes(tokens.parts[part]).decode() for part in tokens.data] == [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "\u2581a",
        "b",
    ]
    assert read.fields["tokenizer.ggml.normalizer.strip_accents"].contents() is True


def test_what_is_no_bert_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelProblem, match=r"describes a llama model, not a bert"):
        minilm_gguf.convert(bert(tmp_path, model_type="llama"), tmp_path / "out.gguf")


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        (
            "encoder.layer.0.rotary.weight",
            "F32",
            r"a tensor encoder\.layer\.0\.rotary\.weight that a bert does not have",
        ),
        ("embeddings.LayerNorm.weight", "BF16", r"holds embeddings\.LayerNorm\.weight as BF16"),
    ],
)
def test_a_strange_tensor_is_refused(tmp_path: Path, name: str, kind: str, reason: str) -> None:
    safetensors(bert(tmp_path) / "model.safetensors", {name: (kind, np.ones(4, "<f4"))})
    with pytest.raises(ModelProblem, match=reason):
        minilm_gguf.convert(tmp_path, tmp_path / "out.gguf")


def test_a_safetensors_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (bert(tmp_path) / "model.safetensors").write_bytes(b"PK\x03\x04 not at all, but long enough for a length")
    with pytest.raises(ModelProblem, match=r"is not a safetensors file"):
        minilm_gguf.convert(tmp_path, tmp_path / "out.gguf")
