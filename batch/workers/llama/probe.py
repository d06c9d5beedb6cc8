"""Whether this build of llama.cpp computes on this processor: `python batch/workers/llama/probe.py`.

The set-up runs it after it has compiled or taken a build, and `batch doctor` runs it again, each in a process of its own: a
build for another processor ends with an illegal instruction, at the first matrix of the kind that it was built for. So every
kind of weights goes through a prompt of several tokens and through a single one. No module of batch is imported, as the
set-up runs this before batch is installed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

WIDTH, HEADS, VOCABULARY = 256, 4, 64
"""The least that every kind of block (256 weights) and every tile of AMX (32 rows) divides."""
PROMPT_TOKENS = 64

WEIGHT_KINDS = ("Q4_K", "Q5_K", "Q6_K", "Q8_0", "Q4_0", "Q4_1", "IQ4_XS", "IQ4_NL", "Q2_K", "Q3_K", "F16", "BF16", "F32")
"""One layer of the probe's model for each."""


def write_model(path: Path) -> None:
    """Write a llama of one layer for each kind of weights, all of them zero: what it computes means nothing."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(2 * PROMPT_TOKENS)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(len(WEIGHT_KINDS))
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("no_vocab")

    def add(name: str, rows: int, kind: str) -> None:
        quantization = gguf.GGMLQuantizationType[kind]
        weights, size = gguf.GGML_QUANT_SIZES[quantization]
        block = np.zeros((rows, WIDTH // weights * size), np.uint8)
        writer.add_tensor(name, block, raw_dtype=quantization)

    ones = np.ones(WIDTH, np.float32)
    add("token_embd.weight", VOCABULARY, "F16")
    add("output.weight", VOCABULARY, "Q6_K")
    writer.add_tensor("output_norm.weight", ones)
    for layer, kind in enumerate(WEIGHT_KINDS):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", ones)
        for matrix in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            add(f"blk.{layer}.{matrix}.weight", WIDTH, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def compute(path: Path) -> None:
    """Decode a prompt and one token more with the model at `path`, on the processor; raises RuntimeError."""
    import llama_cpp.llama_cpp as bindings

    lib: Any = bindings
    lib.llama_backend_init()
    params = lib.llama_model_default_params()
    params.n_gpu_layers = 0
    model = lib.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise RuntimeError("the probe's model could not be loaded")
    settings = lib.llama_context_default_params()
    settings.n_ctx = 2 * PROMPT_TOKENS
    settings.n_threads = settings.n_threads_batch = 2
    context = lib.llama_init_from_model(model, settings)
    if not context:
        raise RuntimeError("the probe's context could not be made")
    for count in (PROMPT_TOKENS, 1):
        tokens = (lib.llama_token * count)(*[index % VOCABULARY for index in range(count)])
        if lib.llama_decode(context, lib.llama_batch_get_one(tokens, count)):
            raise RuntimeError(f"{count} tokens could not be decoded")
    lib.llama_free(context)
    lib.llama_model_free(model)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.gguf"
        write_model(path)
        compute(path)
    print("computes")


if __name__ == "__main__":
    main()
