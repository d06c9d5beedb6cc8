"""The library's products of quantised weights, whichever kernel the processor has, against numpy: what setup/ changes in the
source of llama.cpp, and what the change leaves to others."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import gguf
import numpy as np
import pytest

from ggml_graph import GgmlGraph, call, quantised

BLOCK = 32
TYPES = [
    gguf.GGMLQuantizationType.Q8_0,
    gguf.GGMLQuantizationType.Q5_0,
    gguf.GGMLQuantizationType.Q4_0,
    gguf.GGMLQuantizationType.IQ4_NL,
]
SHAPES = [(64, 1, 640), (64, 2, 32), (64, 3, 640), (48, 33, 1024), (32, 130, 1056), (40, 5, 96), (16, 66, 2080), (1040, 7, 64)]
"""Rows of weights, columns, and what is added up: some in parts, and rows that are no multiple of sixteen."""


def has_own_kernel() -> bool:
    """Whether the library was compiled with setup/llama_cpp/widened_blocks.h in force: some of llama.cpp's own kernels round
    one column otherwise than several."""
    needed, excluded = (
        [call(f"ggml_cpu_has_{name}", returns=ctypes.c_int) for name in names]
        for names in (("avx2", "fma", "f16c"), ("avx512", "avx_vnni"))
    )
    return all(needed) and not any(excluded)


@pytest.fixture
def graph() -> Iterator[GgmlGraph]:
    graph = GgmlGraph()
    yield graph
    graph.close()


def product(graph: GgmlGraph, kind: int, blocks: bytes, rows: int, columns: Any, threads: int = 2) -> Any:
    """As many rows as there are columns, each with a number for each row of the weights."""
    weights = graph.tensor(kind, blocks, rows, columns.shape[1])
    given = graph.array(np.ascontiguousarray(columns))
    return graph.compute(graph.operation("ggml_mul_mat", weights, given), threads).reshape(len(columns), rows)


def random_blocks(kind: gguf.GGMLQuantizationType, rows: int, length: int) -> bytes:
    values = np.random.default_rng(rows + length).normal(0, 1, (rows, length)).astype(np.float32)
    return quantised(kind, values, length // BLOCK * gguf.GGML_QUANT_SIZES[kind][1])


def exact_columns(seed: int, count: int, length: int) -> Any:
    """Numbers that Q8_0 keeps as they are: in each block 127 and other whole numbers, times a power of two."""
    random = np.random.default_rng(seed)
    whole = random.integers(-127, 128, (count, length // BLOCK, BLOCK)).astype(np.float32)
    whole[:, :, 5] = 127
    scales = 2.0 ** random.integers(-8, 0, (count, length // BLOCK, 1))
    return np.ascontiguousarray((whole * scales).reshape(count, length), np.float32)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize(("rows", "count", "length"), SHAPES, ids=str)
def test_a_product_of_quantised_weights_is_what_numpy_computes(
    graph: GgmlGraph, kind: gguf.GGMLQuantizationType, rows: int, count: int, length: int
) -> None:
    blocks = random_blocks(kind, rows, length)
    weights = gguf.quants.dequantize(np.frombuffer(blocks, np.uint8).reshape(rows, -1), kind).astype(np.float64)
    columns = exact_columns(1, count, length)
    for threads in (1, 2, 3):
        computed = product(graph, kind, blocks, rows, columns, threads)
        assert np.abs(computed - columns @ weights.T).max() <= 1e-6 * (np.abs(columns) @ np.abs(weights).T).max()


@pytest.mark.parametrize("count", [1, 9])
def test_the_largest_whole_numbers_of_all_signs_are_added_up_exactly(graph: GgmlGraph, count: int) -> None:
    """Where bytes are multiplied in pairs of 16 bits, 128 times 127 twice is nearly what they hold."""
    signs = np.random.default_rng(2).choice([-1.0, 1.0], (32, 2 * BLOCK))
    blocks = np.zeros((32, 2), np.dtype([("scale", "<f2"), ("numbers", "i1", BLOCK)]))
    blocks["scale"] = 1
    blocks["numbers"] = np.where(signs > 0, 127, -128).reshape(32, 2, BLOCK)
    columns = np.where(signs[:count] > 0, 127.0, -127.0).astype(np.float32)
    exact = columns @ blocks["numbers"].reshape(32, -1).astype(np.float32).T
    assert (product(graph, gguf.GGMLQuantizationType.Q8_0, blocks.tobytes(), 32, columns) == exact).all()


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_a_columns_product_does_not_hang_on_the_number_of_others(graph: GgmlGraph, kind: gguf.GGMLQuantizationType) -> None:
    blocks = random_blocks(kind, 64, 1184)
    columns = np.random.default_rng(3).normal(0, 1, (150, 1184)).astype(np.float32)
    together = product(graph, kind, blocks, 64, columns)
    one_column = ((0, 1), (149, 1)) if has_own_kernel() else ()
    for first, count in (*one_column, (0, 2), (2, 3), (5, 4), (9, 7), (60, 16), (100, 33)):
        part = product(graph, kind, blocks, 64, columns[first : first + count])
        assert (part == together[first : first + count]).all()
