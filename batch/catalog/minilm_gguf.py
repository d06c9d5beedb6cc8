"""Sentence-transformers BERT (safetensors) to llama.cpp's GGUF, f16 with f32 norms and positions.

f16 keeps every vector within a cosine of 0.99999 of the original; q8_0 does not.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from batch.errors import ModelProblem

INPUT_FILES = ("config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json")
"""The files `convert` reads from its folder."""

_TENSORS = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm": "token_embd_norm",
}
_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_SKIPPED = ("pooler.", "embeddings.position_ids")
"""llama.cpp pools by itself and counts positions by itself."""


T = TypeVar("T")


class _Config(msgspec.Struct):
    """As much of config.json as is read."""

    model_type: str | None = None
    num_hidden_layers: int = 0
    max_position_embeddings: int = 0
    hidden_size: int = 0
    intermediate_size: int = 0
    num_attention_heads: int = 0
    layer_norm_eps: float = 1e-12
    vocab_size: int = 0
    type_vocab_size: int = 0


class _Pooling(msgspec.Struct):
    pooling_mode_mean_tokens: bool = False


class _AddedToken(msgspec.Struct):
    content: str
    special: bool = False


class _WordPiece(msgspec.Struct):
    vocab: dict[str, int]


class _Normalizer(msgspec.Struct):
    lowercase: bool = True
    strip_accents: bool | None = None


class _Tokenizer(msgspec.Struct):
    """As much of tokenizer.json as is read."""

    model: _WordPiece
    added_tokens: list[_AddedToken] = []
    normalizer: _Normalizer | None = None


def convert(folder: Path, out: Path, name: str = "all-MiniLM-L6-v2") -> None:
    """Write `out` from the INPUT_FILES below `folder`; raises ModelProblem when they are not such a model."""
    import gguf
    import numpy as np

    config = _read(folder / "config.json", _Config)
    if config.model_type != "bert":
        raise ModelProblem(f"{folder / 'config.json'} describes a {config.model_type} model, not a bert.")
    writer = gguf.GGUFWriter(out, "bert")
    writer.add_name(name)
    writer.add_license("apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_causal_attention(False)
    mean = _read(folder / "1_Pooling" / "config.json", _Pooling).pooling_mode_mean_tokens
    writer.add_pooling_type(gguf.PoolingType.MEAN if mean else gguf.PoolingType.CLS)
    _add_vocabulary(writer, _read(folder / "tokenizer.json", _Tokenizer), config)
    for source, array in _safetensors(folder / "model.safetensors"):
        if source.startswith(_SKIPPED):
            continue
        target = _target(source)
        keep32 = array.ndim < 2 or target in ("position_embd.weight", "token_types.weight")
        writer.add_tensor(target, np.ascontiguousarray(array, np.float32 if keep32 else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _target(source: str) -> str:
    """GGUF's name of a Hugging Face tensor."""
    stem, _, ending = source.removeprefix("bert.").rpartition(".")
    if target := _TENSORS.get(f"{stem}.{ending}"):
        return target
    if target := _TENSORS.get(stem):
        return f"{target}.{ending}"
    parts = stem.split(".", 3)
    if len(parts) == 4 and parts[:2] == ["encoder", "layer"] and parts[3] in _LAYER:
        return f"blk.{parts[2]}.{_LAYER[parts[3]]}.{ending}"
    raise ModelProblem(f"The model has a tensor {source} that a bert does not have.")


def _add_vocabulary(writer: Any, tokenizer: _Tokenizer, config: _Config) -> None:
    """WordPiece as llama.cpp wants it: word starts carry U+2581, continuations lose their ##."""
    import gguf

    vocabulary = tokenizer.model.vocab
    special = {token.content for token in tokenizer.added_tokens if token.special}
    pieces, types = [], []
    by_id = {number: piece for piece, number in vocabulary.items()}
    for number in range(config.vocab_size):
        piece = by_id.get(number)
        if piece is None:
            pieces.append(f"[PAD{number}]")
            types.append(gguf.TokenType.UNUSED)
        elif piece in special:
            pieces.append(piece)
            types.append(gguf.TokenType.CONTROL)
        else:
            pieces.append(piece[2:] if piece.startswith("##") else "\u2581" + piece)
            types.append(gguf.TokenType.NORMAL)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("jina-v2-en")
    writer.add_token_type_count(config.type_vocab_size)
    writer.add_token_list(pieces)
    writer.add_token_types(types)
    writer.add_bos_token_id(vocabulary["[CLS]"])  # llama.cpp opens a text with bos and ends it with sep
    writer.add_sep_token_id(vocabulary["[SEP]"])
    writer.add_unk_token_id(vocabulary["[UNK]"])
    writer.add_pad_token_id(vocabulary["[PAD]"])
    writer.add_mask_token_id(vocabulary["[MASK]"])
    normalizer = tokenizer.normalizer or _Normalizer()
    lowercase = normalizer.lowercase
    # null means "as lowercase" in BERT's normalizer
    strip = lowercase if normalizer.strip_accents is None else normalizer.strip_accents
    writer.add_bool("tokenizer.ggml.normalizer.lowercase", lowercase)
    writer.add_bool("tokenizer.ggml.normalizer.strip_accents", strip)


def _safetensors(path: Path) -> Iterator[tuple[str, Any]]:
    """(name, array) of each tensor: 8 bytes of header length, a JSON header, the data."""
    import numpy as np

    types = {"F32": "<f4", "F16": "<f2", "I64": "<i8"}
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > path.stat().st_size:
            raise ModelProblem(f"{path} is not a safetensors file.")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    data = np.memmap(path, np.uint8, "r", offset=8 + length)
    for name, entry in sorted(header.items()):
        if entry["dtype"] not in types:
            raise ModelProblem(f"{path} holds {name} as {entry['dtype']}, which this converter does not read.")
        start, end = entry["data_offsets"]
        yield name, np.frombuffer(data[start:end], types[entry["dtype"]]).reshape(entry["shape"])


def _read(path: Path, type: type[T]) -> T:
    """A JSON file's value; raises ModelProblem where it is another's."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=type)
    except msgspec.MsgspecError as error:
        raise ModelProblem(f"{path} is not that of a sentence-transformers model: {error}.") from None
