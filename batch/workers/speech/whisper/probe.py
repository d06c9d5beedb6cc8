"""Whether this build of whisper.cpp computes here: `python batch/workers/speech/whisper/probe.py`.

The set-up runs it after it has compiled or taken a build, and `batch doctor` runs it again, each in a process of its own: a
build for another processor ends with an illegal instruction, at the first matrix of the kind that it was built for, and one for
another GPU ends the process too. So a model of each kind of weights encodes a moment of sound, and decodes several tokens and a
single one, on the processor and, where the build sees one, on the GPU. No module of batch is imported, as the set-up runs this
before batch is installed.
"""

from __future__ import annotations

import ctypes
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

MAGIC = 0x67676D6C
WIDTH, HEADS, VOCABULARY, AUDIO_CONTEXT, TEXT_CONTEXT, MELS, FREQUENCY_BINS = 256, 4, 64, 64, 64, 80, 201
"""The least that every kind of block (256 weights) divides."""
SAMPLES = 16_000
GPU_TYPES = (1, 2)
"""ggml's numbers of a GPU with memory of its own, and of one that shares the machine's."""
PROMPT_TOKENS = 32

F32, F16 = (0, 0, 4, 1), (1, 1, 2, 1)
WEIGHT_KINDS = {
    "F16": F16,
    "Q4_0": (2, 2, 18, 32),
    "Q4_1": (3, 3, 20, 32),
    "Q8_0": (7, 8, 34, 32),
    "Q5_0": (8, 6, 22, 32),
    "Q5_1": (9, 7, 24, 32),
    "Q4_K": (12, 12, 144, 256),
    "Q5_K": (13, 13, 176, 256),
    "Q6_K": (14, 14, 210, 256),
}
"""Number of the file's kind, number of the tensors' kind, bytes of a block, weights in a block."""


def write_model(path: Path, kind: str) -> None:
    """Write a Whisper of one layer with weights of a kind, all of them zero: what it computes means nothing."""
    sizes = (VOCABULARY, AUDIO_CONTEXT, WIDTH, HEADS, 1, TEXT_CONTEXT, WIDTH, HEADS, 1, MELS)
    with path.open("wb") as file:
        file.write(struct.pack("<12i", MAGIC, *sizes, WEIGHT_KINDS[kind][0]))
        file.write(struct.pack("<2i", MELS, FREQUENCY_BINS) + bytes(4 * MELS * FREQUENCY_BINS))
        file.write(struct.pack("<i", 0))  # no tokens: it names them itself
        for name, shape in _tensors():
            single = F32 if len(shape) == 1 or "positional" in name or name.endswith("bias") else None
            convolution = F16 if len(shape) == 3 else None
            _, number, block_bytes, block_weights = single or convolution or WEIGHT_KINDS[kind]
            count = 1
            for size in shape:
                count *= size
            file.write(struct.pack("<3i", len(shape), len(name), number))
            file.write(struct.pack(f"<{len(shape)}i", *shape) + name.encode() + bytes(count // block_weights * block_bytes))


def _tensors() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of each, the innermost dimension first."""
    yield "encoder.positional_embedding", (WIDTH, AUDIO_CONTEXT)
    for number, inputs in ((1, MELS), (2, WIDTH)):
        yield f"encoder.conv{number}.weight", (3, inputs, WIDTH)
        yield f"encoder.conv{number}.bias", (1, WIDTH)
    yield from _layer("encoder.blocks.0", ("attn",))
    yield from _norm("encoder.ln_post")
    yield "decoder.positional_embedding", (WIDTH, TEXT_CONTEXT)
    yield "decoder.token_embedding.weight", (WIDTH, VOCABULARY)
    yield from _layer("decoder.blocks.0", ("attn", "cross_attn"))
    yield from _norm("decoder.ln")


def _layer(prefix: str, attentions: tuple[str, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for attention in attentions:
        yield from _norm(f"{prefix}.{attention}_ln")
        for name in ("query", "key", "value", "out"):
            yield f"{prefix}.{attention}.{name}.weight", (WIDTH, WIDTH)
            if name != "key":
                yield f"{prefix}.{attention}.{name}.bias", (WIDTH,)
    yield from _norm(f"{prefix}.mlp_ln")
    yield f"{prefix}.mlp.0.weight", (WIDTH, 4 * WIDTH)
    yield f"{prefix}.mlp.0.bias", (4 * WIDTH,)
    yield f"{prefix}.mlp.2.weight", (4 * WIDTH, WIDTH)
    yield f"{prefix}.mlp.2.bias", (WIDTH,)


def _norm(prefix: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{prefix}.weight", (WIDTH,)
    yield f"{prefix}.bias", (WIDTH,)


def sees_gpu() -> bool:
    """Whether whisper.cpp would compute on a GPU."""
    import _pywhispercpp as pw

    library = ctypes.CDLL(pw.__file__)
    library.ggml_backend_dev_by_type.restype = ctypes.c_void_p
    return any(library.ggml_backend_dev_by_type(kind) for kind in GPU_TYPES)


def compute(path: Path, *, on_gpu: bool = False) -> None:
    """Encode a second of silence and decode with the model at `path`, on the processor or the GPU; raises RuntimeError."""
    import _pywhispercpp as pw
    import numpy as np

    library = ctypes.CDLL(pw.__file__)
    params = pw.whisper_context_default_params()
    params.use_gpu = on_gpu
    wrapper = pw.whisper_init_from_file_with_params(str(path), params)
    context = ctypes.c_void_p.from_address(ctypes.c_void_p.from_address(id(wrapper) + object.__basicsize__).value or 0).value
    if not context:
        raise RuntimeError("the probe's model could not be loaded")
    handle = ctypes.c_void_p(context)
    samples = np.zeros(SAMPLES, np.float32)
    if library.whisper_pcm_to_mel(handle, ctypes.c_void_p(samples.ctypes.data), SAMPLES, 2):
        raise RuntimeError("no spectrogram could be computed")
    if library.whisper_encode(handle, 0, 2):
        raise RuntimeError("sound could not be encoded")
    for past, count in ((0, PROMPT_TOKENS), (PROMPT_TOKENS, 1)):
        tokens = (ctypes.c_int32 * count)(*[index % VOCABULARY for index in range(count)])
        if library.whisper_decode(handle, tokens, count, past, 2):
            raise RuntimeError(f"{count} tokens could not be decoded")
    pw.whisper_free(wrapper)


def main() -> None:
    has_gpu = sees_gpu()
    with tempfile.TemporaryDirectory() as folder:
        for kind in WEIGHT_KINDS:
            path = Path(folder) / f"{kind}.bin"
            write_model(path, kind)
            for on_gpu in (False, True) if has_gpu else (False,):
                compute(path, on_gpu=on_gpu)
    print("computes")


if __name__ == "__main__":
    main()
