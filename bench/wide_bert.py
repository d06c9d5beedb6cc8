"""A BERT of bge-base-zh's size with random weights: what it computes means nothing, how long it takes does.

    python bench/wide_bert.py             makes it once into the user's cache and prints its path

12 layers of 768, pooled by [CLS], as the production model is, which no package registry carries. Its vocabulary is
MiniLM's, so that both sides tokenise for real.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from peer import CACHE, write_once

from batch.settings import default_models_dir

MINILM = default_models_dir() / "all-MiniLM-L6-v2-f16.gguf"
PATH = CACHE / "wide-bert-f16.gguf"
LAYERS, WIDTH, HEADS, INNER, LONGEST = 12, 768, 12, 3072, 512


def path() -> Path | None:
    """Where it lies, written first where it is not there; None without MiniLM, whose vocabulary it takes."""
    if MINILM.is_file():
        write_once(PATH, _write)
    return PATH if PATH.is_file() else None


def _write(target: Path) -> None:
    writer = gguf.GGUFWriter(target, "bert")
    writer.add_name("wide-bert")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_block_count(LAYERS)
    writer.add_context_length(LONGEST)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.CLS)
    words = 0
    for name, field in gguf.GGUFReader(MINILM).fields.items():
        if not name.startswith("tokenizer."):
            continue
        value: Any = field.contents()
        if name.endswith(".tokens"):
            words = len(value)
        kind, *of = field.types
        writer.add_key_value(name, value, kind, sub_type=of[0] if of else None)
    draw = np.random.default_rng(1)

    def weights(name: str, *shape: int, wide: bool = False) -> None:
        drawn = draw.normal(0, 0.02, shape)
        writer.add_tensor(f"{name}.weight", drawn.astype(np.float32 if wide else np.float16))

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(WIDTH, np.float32))

    def dense(name: str, rows: int, columns: int) -> None:
        weights(name, rows, columns)
        writer.add_tensor(f"{name}.bias", np.zeros(rows, np.float32))

    weights("token_embd", words, WIDTH)
    weights("position_embd", LONGEST, WIDTH, wide=True)
    weights("token_types", 2, WIDTH, wide=True)
    norm("token_embd_norm")
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            dense(f"blk.{layer}.{name}", WIDTH, WIDTH)
        dense(f"blk.{layer}.ffn_up", INNER, WIDTH)
        dense(f"blk.{layer}.ffn_down", WIDTH, INNER)
        norm(f"blk.{layer}.attn_output_norm")
        norm(f"blk.{layer}.layer_output_norm")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    print(path() or f"{MINILM} is not there: `batch models pull all-minilm-l6-v2`")
