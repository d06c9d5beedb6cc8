"""Gemma 4 E4B's exact shape with random weights: what it computes means nothing, what it costs is the real model's cost.

    python bench/e4b_shape.py             writes text model and projector once into the user's cache, prints their paths

Dimensions as in the published configuration: hidden 2560, 42 layers in the pattern five sliding and one full, 8 heads and
2 key/value heads, head 256 (sliding) and 512 (full), feed-forward 10240, 256 inputs per layer, the last 18 layers sharing
key/value cells, window 512, context 131,072, 262,144 tokens; Q4_K with Q6_K embeddings, as Q4_K_M has. 5.3 GB, half a
minute. The tokenizer is the tiny Gemma 4's with filler words, so texts take more tokens than the real model's.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Quantization
from numpy.typing import NDArray
from peer import CACHE, ROOT, write_once

TINY = ROOT / "batch" / "data" / "tiny-gemma4v" / "tiny-gemma4v-text-f16.gguf"
FOLDER = CACHE / "e4b-shape"
TEXT, PROJECTOR = FOLDER / "e4b-shape-text.gguf", FOLDER / "e4b-shape-mmproj.gguf"

HIDDEN, LAYERS, FEED_FORWARD, HEADS, KV_HEADS = 2560, 42, 10240, 8, 2
SLIDING_HEAD, FULL_HEAD = 256, 512
PER_LAYER_INPUT, SHARED_KV_LAYERS, WINDOW_TOKENS = 256, 18, 512
VOCABULARY, CONTEXT_TOKENS = 262_144, 131_072
VISION_HIDDEN, VISION_FEED_FORWARD, VISION_LAYERS, VISION_HEADS, PATCH_PIXELS = 768, 3072, 16, 12, 16

Bytes = NDArray[np.uint8]


def paths() -> tuple[Path, Path]:
    """Text model and projector, written first where they are not there yet."""
    write_once(TEXT, _write_text)
    write_once(PROJECTOR, _write_projector)
    return TEXT, PROJECTOR


@functools.cache
def _pools() -> tuple[Bytes, NDArray[np.float16]]:
    """Random bytes and normal weights that all tensors are cut from."""
    random = np.random.default_rng(1)
    quantised = random.integers(0, 256, 64 << 20, dtype=np.uint8)
    return quantised, (random.standard_normal(1 << 20) * 0.02).astype(np.float16)


def _half(value: float) -> Bytes:
    return np.frombuffer(np.float16(value).tobytes(), np.uint8)


def _q4_k(rows: int, columns: int, deviation: float = 0.02) -> Bytes:
    """Random blocks of 256 weights in 144 bytes: two half-precision scales, 12 bytes of sub-scales, 128 of nibbles."""
    blocks = np.resize(_pools()[0], rows * columns // 256 * 144).reshape(-1, 144).copy()
    blocks[:, 0:2] = _half(deviation / 250)
    blocks[:, 2:4] = _half(7.5 * deviation / 250)
    return blocks.reshape(rows, -1)


def _q6_k(rows: int, columns: int, deviation: float = 0.02) -> Bytes:
    """Random blocks of 256 weights in 210 bytes, the half-precision scale last."""
    blocks = np.resize(_pools()[0], rows * columns // 256 * 210).reshape(-1, 210).copy()
    blocks[:, 208:210] = _half(max(deviation / 1370, 6e-8))
    return blocks.reshape(rows, -1)


def _f16(*shape: int) -> NDArray[np.float16]:
    return np.resize(_pools()[1], shape)


def _ones(size: int) -> NDArray[np.float32]:
    return np.ones(size, np.float32)


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_text(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "gemma4", use_temp_file=False)
    sliding = [(layer + 1) % 6 != 0 for layer in range(LAYERS)]
    writer.add_name("e4b-shape, random weights")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_key_length(FULL_HEAD)
    writer.add_value_length(FULL_HEAD)
    writer.add_key_length_swa(SLIDING_HEAD)
    writer.add_value_length_swa(SLIDING_HEAD)
    writer.add_rope_dimension_count(FULL_HEAD)
    writer.add_rope_dimension_count_swa(SLIDING_HEAD)
    writer.add_rope_freq_base(1e6)
    writer.add_rope_freq_base_swa(1e4)
    writer.add_sliding_window(WINDOW_TOKENS)
    writer.add_sliding_window_pattern(sliding)
    writer.add_shared_kv_layers(SHARED_KV_LAYERS)
    writer.add_embedding_length_per_layer_input(PER_LAYER_INPUT)
    writer.add_final_logit_softcapping(30.0)
    _add_tokenizer(writer)
    writer.add_tensor("token_embd.weight", _q6_k(VOCABULARY, HIDDEN), raw_dtype=Quantization.Q6_K)
    per_layer = _q6_k(VOCABULARY, PER_LAYER_INPUT * LAYERS)
    writer.add_tensor("per_layer_token_embd.weight", per_layer, raw_dtype=Quantization.Q6_K)
    writer.add_tensor("per_layer_model_proj.weight", _f16(PER_LAYER_INPUT * LAYERS, HIDDEN))
    writer.add_tensor("per_layer_proj_norm.weight", _ones(PER_LAYER_INPUT))
    writer.add_tensor("output_norm.weight", _ones(HIDDEN))
    writer.add_tensor("rope_freqs.weight", np.array([1.0] * 64 + [1e30] * 192, np.float32))
    for layer in range(LAYERS):
        for name, tensor, quantization in _layer(layer, SLIDING_HEAD if sliding[layer] else FULL_HEAD):
            writer.add_tensor(f"blk.{layer}.{name}.weight", tensor, raw_dtype=quantization)
    _finish(writer)


def _layer(layer: int, head: int) -> Iterator[tuple[str, Any, Quantization | None]]:
    """(name, tensor, quantisation; None: as the array is) of one layer."""
    for name in ("attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm", "post_norm"):
        yield name, _ones(HIDDEN), None
    yield "attn_q_norm", _ones(head), None
    yield "layer_output_scale", _ones(1), None
    if layer < LAYERS - SHARED_KV_LAYERS:
        yield "attn_k_norm", _ones(head), None
        yield "attn_k", _q4_k(KV_HEADS * head, HIDDEN), Quantization.Q4_K
        yield "attn_v", _q6_k(KV_HEADS * head, HIDDEN), Quantization.Q6_K
    yield "attn_q", _q4_k(HEADS * head, HIDDEN), Quantization.Q4_K
    yield "attn_output", _q4_k(HIDDEN, HEADS * head), Quantization.Q4_K
    yield "ffn_gate", _q4_k(FEED_FORWARD, HIDDEN), Quantization.Q4_K
    yield "ffn_up", _q4_k(FEED_FORWARD, HIDDEN), Quantization.Q4_K
    if layer % 2:
        yield "ffn_down", _q6_k(HIDDEN, FEED_FORWARD), Quantization.Q6_K
    else:
        yield "ffn_down", _q4_k(HIDDEN, FEED_FORWARD), Quantization.Q4_K
    yield "inp_gate", _q4_k(PER_LAYER_INPUT, HIDDEN), Quantization.Q4_K
    yield "proj", _q4_k(HIDDEN, PER_LAYER_INPUT), Quantization.Q4_K


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    """The tiny model's tokenizer and template; words that no text holds fill the vocabulary."""
    fields = {name: field.contents() for name, field in gguf.GGUFReader(TINY).fields.items() if not name.startswith("GGUF")}
    tokens = list(fields["tokenizer.ggml.tokens"])
    types = list(fields["tokenizer.ggml.token_type"])
    missing = VOCABULARY - len(tokens)
    writer.add_tokenizer_model("gemma4")
    writer.add_token_list(tokens + [f"w{number}" for number in range(missing)])
    writer.add_token_scores([-1000.0] * VOCABULARY)
    writer.add_token_types(types + [gguf.TokenType.NORMAL] * missing)
    writer.add_token_merges(fields["tokenizer.ggml.merges"])
    for name, add in (
        ("bos_token_id", writer.add_bos_token_id),
        ("eos_token_id", writer.add_eos_token_id),
        ("unknown_token_id", writer.add_unk_token_id),
        ("padding_token_id", writer.add_pad_token_id),
    ):
        if f"tokenizer.ggml.{name}" in fields:
            add(fields[f"tokenizer.ggml.{name}"])
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(fields["tokenizer.chat_template"])


def _write_projector(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_name("e4b-shape, random weights")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_bool("clip.has_audio_encoder", False)
    writer.add_bool("clip.use_gelu", True)
    writer.add_string("clip.projector_type", "gemma4v")
    writer.add_string("clip.vision.projector_type", "gemma4v")
    for name, value in {
        "image_size": 224,
        "patch_size": PATCH_PIXELS,
        "embedding_length": VISION_HIDDEN,
        "feed_forward_length": VISION_FEED_FORWARD,
        "projection_dim": HIDDEN,
        "block_count": VISION_LAYERS,
        "attention.head_count": VISION_HEADS,
        "projector.scale_factor": 3,
    }.items():
        writer.add_uint32(f"clip.vision.{name}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    writer.add_array("clip.vision.image_mean", [0.0] * 3)
    writer.add_array("clip.vision.image_std", [1.0] * 3)
    writer.add_tensor("v.patch_embd.weight", _f16(VISION_HIDDEN, 3, PATCH_PIXELS, PATCH_PIXELS))
    writer.add_tensor("v.position_embd.weight", _f16(2, 10240, VISION_HIDDEN).astype(np.float32))
    writer.add_tensor("mm.input_projection.weight", _f16(HIDDEN, VISION_HIDDEN))
    for layer in range(VISION_LAYERS):
        prefix = f"v.blk.{layer}."
        for name in ("ln1", "ln2", "attn_post_norm", "ffn_post_norm"):
            writer.add_tensor(f"{prefix}{name}.weight", _ones(VISION_HIDDEN))
        for name in ("attn_q_norm", "attn_k_norm"):
            writer.add_tensor(f"{prefix}{name}.weight", _ones(VISION_HIDDEN // VISION_HEADS))
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            writer.add_tensor(f"{prefix}{name}.weight", _f16(VISION_HIDDEN, VISION_HIDDEN))
        writer.add_tensor(f"{prefix}ffn_gate.weight", _f16(VISION_FEED_FORWARD, VISION_HIDDEN))
        writer.add_tensor(f"{prefix}ffn_up.weight", _f16(VISION_FEED_FORWARD, VISION_HIDDEN))
        writer.add_tensor(f"{prefix}ffn_down.weight", _f16(VISION_HIDDEN, VISION_FEED_FORWARD))
    _finish(writer)


if __name__ == "__main__":
    print(*paths(), sep="\n")
