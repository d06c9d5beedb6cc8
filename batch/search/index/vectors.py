"""Vectors as the index keeps them: float16 in the database, their signs in memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]
"""(vectors, dimensions), each of length 1."""
Signs = npt.NDArray[np.uint64]
"""(vectors, ceil(dimensions / 64)): a bit a dimension, set where it is above zero."""


def to_stored(vectors: Matrix) -> list[bytes]:
    """Each vector as little-endian float16."""
    return [row.tobytes() for row in vectors.astype("<f2")]


def from_stored(rows: list[bytes], dimensions: int) -> Matrix:
    """Stored vectors as (rows, dimensions) float32."""
    return np.frombuffer(b"".join(rows), "<f2").reshape(-1, dimensions).astype(np.float32)


def signs_of(vectors: Matrix) -> Signs:
    """The sign bits of vectors."""
    bits = np.packbits(vectors > 0, axis=1)
    padded = np.zeros((len(vectors), -(-bits.shape[1] // 8) * 8), np.uint8)
    padded[:, : bits.shape[1]] = bits
    return padded.view(np.uint64)


def hamming_distances(signs: Signs, query: Signs) -> npt.NDArray[np.int32]:
    """How many signs of each row differ from a query's, which is (1, words)."""
    distances: npt.NDArray[np.int32] = np.bitwise_count(signs ^ query).sum(axis=1, dtype=np.int32)
    return distances
