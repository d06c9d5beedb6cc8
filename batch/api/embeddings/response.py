"""The vectors of a job as a response body: OpenAI's shape and llama-server's own, piece by piece."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson

from batch.payloads.embedding import EmbeddingResult

PIECE_BYTES = 1 << 20
"""Bytes of vectors turned into text at a time: a few milliseconds."""

Matrix = npt.NDArray[np.float32]


def read_vectors(result: EmbeddingResult, blob: Path | None) -> Matrix:
    """(count, dimensions) float32 of a result, whose vectors lie in the file `blob` where it has none itself.

    A file is mapped, not read.
    """
    shape = (result.count, result.dimensions)
    if result.vectors is not None:
        return np.frombuffer(base64.b64decode(result.vectors), "<f4").reshape(shape)
    assert blob is not None
    return np.memmap(blob, "<f4", "r", shape=shape).view(np.ndarray)


def to_openai(vectors: Matrix, model: str, tokens: int, *, as_base64: bool) -> Iterator[bytes]:
    """{"model", "object": "list", "usage", "data": [{"embedding", "index", "object"}]}, vectors as numbers or base64."""
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    yield orjson.dumps({"model": model, "object": "list", "usage": usage})[:-1] + b',"data":['
    for first, rows in _pieces(vectors):
        items = [
            {
                "embedding": base64.b64encode(row.tobytes()).decode(),
                "index": index,
                "object": "embedding",
                "encoding_format": "base64",
            }
            if as_base64
            else {"embedding": row, "index": index, "object": "embedding"}
            for index, row in enumerate(rows, first)
        ]
        yield (b"," if first else b"") + orjson.dumps(items, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
    yield b"]}"


def to_native(vectors: Matrix) -> Iterator[bytes]:
    """[{"index", "embedding": [[…]]}]"""
    yield b"["
    for first, rows in _pieces(vectors):
        items = [{"index": index, "embedding": [row]} for index, row in enumerate(rows, first)]
        yield (b"," if first else b"") + orjson.dumps(items, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
    yield b"]"


def _pieces(vectors: Matrix) -> Iterator[tuple[int, Matrix]]:
    """(index of its first row, some rows)"""
    count = max(1, PIECE_BYTES // (4 * vectors.shape[1]))
    for first in range(0, len(vectors), count):
        yield first, vectors[first : first + count]
