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

SHORT_BLOCK, LONG_BLOCK = 32, 256
Q8_K_BYTES = 4 + LONG_BLOCK + 2 * LONG_BLOCK // 16
SHORT_TYPES = [
    gguf.GGMLQuantizationType.Q8_0,
    gguf.GGMLQuantizationType.Q5_0,
    gguf.GGMLQuantizationType.Q4_0,
    gguf.GGMLQuantizationType.IQ4_NL,
]
LONG_TYPES = [
    gguf.GGMLQuantizationType.Q4_K,
    gguf.GGMLQuantizationType.Q5_K,
    gguf.GGMLQuantizationType.Q6_K,
]
TYPES = SHORT_TYPES + LONG_TYPES
UNSIGNED_TYPES = [*LONG_TYPES, gguf.GGMLQuantizationType.Q5_0, gguf.GGMLQuantizationType.Q4_0]
SHAPES = [(64, 1, 640), (64, 2, 32), (64, 3, 640), (48, 33, 1024), (32, 130, 1056), (40, 5, 96), (16, 66, 2080), (1040, 7, 64)]
"""Rows of weights, columns, and what is added up: some in parts, and rows that are no multiple of sixteen."""
LONG_SHAPES = [(64, 1, 256), (32, 1, 4608), (64, 2, 1280), (48, 33, 1024), (32, 130, 1536), (40, 9, 512), (1040, 7, 256)]


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
    return quantised(kind, values, length // block_length(kind) * gguf.GGML_QUANT_SIZES[kind][1])


def block_length(kind: gguf.GGMLQuantizationType) -> int:
    return int(gguf.GGML_QUANT_SIZES[kind][0])


def shapes_of(kinds: list[gguf.GGMLQuantizationType], shapes: list[tuple[int, int, int]]) -> list[Any]:
    return [pytest.param(kind, *shape, id=f"{kind.name}-{shape}") for kind in kinds for shape in shapes]


def exact_columns(seed: int, count: int, length: int, block: int) -> Any:
    """Numbers that Q8_0 and Q8_K keep as they are: in each block 127 and other whole numbers, times a power of two."""
    random = np.random.default_rng(seed)
    whole = random.integers(-127, 128, (count, length // block, block)).astype(np.float32)
    whole[:, :, 5] = 127
    scales = 2.0 ** random.integers(-8, 0, (count, length // block, 1))
    return np.ascontiguousarray((whole * scales).reshape(count, length), np.float32)


@pytest.mark.parametrize(
    ("kind", "rows", "count", "length"), [*shapes_of(SHORT_TYPES, SHAPES), *shapes_of(LONG_TYPES, LONG_SHAPES)]
)
def test_a_product_of_quantised_weights_is_what_numpy_computes(
    graph: GgmlGraph, kind: gguf.GGMLQuantizationType, rows: int, count: int, length: int
) -> None:
    blocks = random_blocks(kind, rows, length)
    weights = gguf.quants.dequantize(np.frombuffer(blocks, np.uint8).reshape(rows, -1), kind).astype(np.float64)
    columns = exact_columns(1, count, length, block_length(kind))
    for threads in (1, 2, 3):
        computed = product(graph, kind, blocks, rows, columns, threads)
        assert np.abs(computed - columns @ weights.T).max() <= 1e-6 * (np.abs(columns) @ np.abs(weights).T).max()


@pytest.mark.parametrize("count", [1, 9])
def test_the_largest_whole_numbers_of_all_signs_are_added_up_exactly(graph: GgmlGraph, count: int) -> None:
    """Where bytes are multiplied in pairs of 16 bits, 128 times 127 twice is nearly what they hold."""
    signs = np.random.default_rng(2).choice([-1.0, 1.0], (32, 2 * SHORT_BLOCK))
    blocks = np.zeros((32, 2), np.dtype([("scale", "<f2"), ("numbers", "i1", SHORT_BLOCK)]))
    blocks["scale"] = 1
    blocks["numbers"] = np.where(signs > 0, 127, -128).reshape(32, 2, SHORT_BLOCK)
    columns = np.where(signs[:count] > 0, 127.0, -127.0).astype(np.float32)
    exact = columns @ blocks["numbers"].reshape(32, -1).astype(np.float32).T
    assert (product(graph, gguf.GGMLQuantizationType.Q8_0, blocks.tobytes(), 32, columns) == exact).all()


@pytest.mark.parametrize("kind", UNSIGNED_TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("count", [1, 2, 9])
def test_the_largest_numbers_without_a_sign_are_added_up_exactly(
    graph: GgmlGraph, kind: gguf.GGMLQuantizationType, count: int
) -> None:
    """All bits set, the scales' too, times 127 of one sign: products are added up as 16 bits as long as these hold them."""
    rows, length = 32, 2 * LONG_BLOCK
    size = int(gguf.GGML_QUANT_SIZES[kind][1])
    blocks = np.full((rows, length // block_length(kind), size), 255, np.uint8)
    halves = {"Q6_K": (208,), "Q5_0": (0,), "Q4_0": (0,)}.get(kind.name, (0, 2))
    for at in halves:
        blocks[:, :, at : at + 2] = np.frombuffer(np.float16(1).tobytes(), np.uint8)
    if kind.name == "Q6_K":
        blocks[::2, :, 192:208] = 128  # the smallest scale, -128
        blocks[1::2, :, 192:208] = 127
        blocks[::4, :, :192] = 0
    columns = np.ones((count, length), np.float32) * np.where(np.arange(count) % 2 == 0, 127, -127)[:, None].astype(np.float32)
    weights = gguf.quants.dequantize(blocks.reshape(rows, -1), kind).astype(np.float64)
    assert (product(graph, kind, blocks.tobytes(), rows, columns) == (columns @ weights.T).astype(np.float32)).all()


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_a_columns_product_does_not_hang_on_the_number_of_others(graph: GgmlGraph, kind: gguf.GGMLQuantizationType) -> None:
    if kind in LONG_TYPES and not has_own_kernel():
        pytest.skip("llama.cpp's own kernels for K-quants round by how many columns there are")
    length = 5 * LONG_BLOCK
    blocks = random_blocks(kind, 64, length)
    columns = np.random.default_rng(3).normal(0, 1, (150, length)).astype(np.float32)
    together = product(graph, kind, blocks, 64, columns)
    one_column = ((0, 1), (149, 1)) if has_own_kernel() else ()
    for first, count in (*one_column, (0, 2), (2, 3), (5, 4), (9, 7), (60, 16), (100, 33)):
        part = product(graph, kind, blocks, 64, columns[first : first + count])
        assert (part == together[first : first + count]).all()


def test_columns_for_k_quants_are_made_as_one_number_at_a_time() -> None:
    random = np.random.default_rng(4)
    normal = random.normal(0, 1, (40, LONG_BLOCK)).astype(np.float32)
    halves = random.integers(-254, 255, (40, LONG_BLOCK)).astype(np.float32) / 2
    ties = random.choice(np.array([-3, 3], np.float32), (40, LONG_BLOCK))
    sparse = np.where(random.random((40, LONG_BLOCK)) < 0.99, 0, normal)
    values = np.ascontiguousarray(np.concatenate([normal, normal * 1e-30, normal * 1e30, halves, ties, sparse]), np.float32)
    size, numbers = len(values) * Q8_K_BYTES, values.size
    made, expected = ctypes.create_string_buffer(size), ctypes.create_string_buffer(size)
    source = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    call("quantize_row_q8_K", source, made, ctypes.c_int64(numbers), returns=None)
    call("quantize_row_q8_K_ref", source, expected, ctypes.c_int64(numbers), returns=None)
    assert made.raw == expected.raw
