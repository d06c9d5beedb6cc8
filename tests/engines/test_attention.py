"""The library's attention of few tokens, whichever kernel the processor has, against numpy: what setup/ changes in the source
of llama.cpp, and what the change leaves to others."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from ggml_graph import GgmlGraph, Tensor, call


@dataclass(frozen=True)
class Shape:
    """What attention is computed of."""

    streams: int = 1
    tokens: int = 3
    heads: int = 4
    kv_heads: int = 1
    cells: int = 70
    length: int = 64
    value_length: int = 64
    max_bias: float = 0.0
    softcap: float = 0.0
    has_mask: bool = True
    has_sinks: bool = False


MAX_ERROR = 8e-3
"""Of numbers of which the largest are about 3: ggml's own sums are half floats."""
SHAPES = {
    "several heads share keys": Shape(),
    "each head has its keys": Shape(heads=3, kv_heads=3),
    "seven heads share": Shape(heads=14, kv_heads=2),
    "one token": Shape(tokens=1, heads=8, kv_heads=2, cells=300),
    "one token far behind": Shape(tokens=1, heads=8, kv_heads=2, cells=1100),
    "streams of their own": Shape(streams=5, tokens=1, cells=33, length=256, value_length=256),
    "streams with several tokens": Shape(streams=3, tokens=7, heads=8, kv_heads=2),
    "the longest heads": Shape(length=512, value_length=512),
    "longer than the longest": Shape(length=576, value_length=512),
    "values of another length": Shape(length=96, value_length=48),
    "no multiple of 32": Shape(length=80, value_length=80),
    "many tokens": Shape(tokens=70),
    "63 tokens": Shape(tokens=63, cells=63),
    "slopes": Shape(heads=6, kv_heads=2, max_bias=8.0),
    "a soft cap": Shape(softcap=30.0),
    "sinks": Shape(has_sinks=True),
    "no mask": Shape(has_mask=False),
    "one cell": Shape(cells=1, has_mask=False),
}


@dataclass(frozen=True)
class Inputs:
    """Arrays in ggml's order of dimensions, the last one first."""

    queries: Any
    keys: Any
    values: Any
    mask: Any
    sinks: Any


@pytest.fixture
def graph() -> Iterator[GgmlGraph]:
    graph = GgmlGraph()
    yield graph
    graph.close()


def inputs(shape: Shape, seed: int = 1) -> Inputs:
    random = np.random.default_rng(seed)
    mask = np.where(random.random((shape.streams, 1, shape.tokens, shape.cells)) < 0.4, -np.inf, 0.0)
    mask[..., -1] = 0.0
    if shape.tokens > 2:
        mask[:, :, 1, :-1] = -np.inf
    if shape.max_bias:
        mask += -np.abs(random.integers(0, 9, mask.shape))
    return Inputs(
        random.normal(0, 1, (shape.streams, shape.heads, shape.tokens, shape.length)).astype(np.float32),
        random.normal(0, 1, (shape.streams, shape.kv_heads, shape.cells, shape.length)).astype(np.float16),
        random.normal(0, 1, (shape.streams, shape.kv_heads, shape.cells, shape.value_length)).astype(np.float16),
        mask.astype(np.float16) if shape.has_mask else None,
        random.normal(0, 2, shape.heads).astype(np.float32) if shape.has_sinks else None,
    )


def attention(graph: GgmlGraph, shape: Shape, given: Inputs, threads: int = 2) -> Any:
    """(streams, tokens, heads, value length)"""
    arrays = (given.queries, given.keys, given.values)
    tensors = [graph.array(np.ascontiguousarray(each)) for each in arrays]
    mask = graph.array(np.ascontiguousarray(given.mask)) if given.mask is not None else Tensor(None)
    numbers = [ctypes.c_float(number) for number in (shape.length**-0.5, shape.max_bias, shape.softcap)]
    result = graph.operation("ggml_flash_attn_ext", *tensors, mask, *numbers)
    if given.sinks is not None:
        call("ggml_flash_attn_ext_add_sinks", result, graph.array(given.sinks), returns=None)
    return graph.compute(result, threads).reshape(shape.streams, shape.tokens, shape.heads, shape.value_length)


def slopes(shape: Shape) -> Any:
    if not shape.max_bias:
        return np.ones(shape.heads)
    power = 1 << int(np.log2(shape.heads))
    return np.array(
        [
            2.0 ** (-shape.max_bias / power * (head + 1))
            if head < power
            else 2.0 ** (-shape.max_bias / 2 / power * (2 * (head - power) + 1))
            for head in range(shape.heads)
        ]
    )


def expected(shape: Shape, given: Inputs) -> Any:
    shared = shape.heads // shape.kv_heads
    keys, values = (np.repeat(each.astype(np.float64), shared, axis=1) for each in (given.keys, given.values))
    scores = given.queries.astype(np.float16).astype(np.float64) @ keys.transpose(0, 1, 3, 2) * shape.length**-0.5
    if shape.softcap:
        scores = shape.softcap * np.tanh(scores / shape.softcap)
    if given.mask is not None:
        scores = scores + slopes(shape)[None, :, None, None] * given.mask.astype(np.float64)
    sinks = given.sinks if given.sinks is not None else np.full(shape.heads, -np.inf)
    most = np.maximum(scores.max(-1, keepdims=True), sinks[None, :, None, None])
    weights = np.exp(scores - most)
    total = weights.sum(-1, keepdims=True) + np.exp(sinks[None, :, None, None] - most)
    return (weights / total @ values).transpose(0, 2, 1, 3)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_attention_is_what_numpy_computes(graph: GgmlGraph, shape: Shape) -> None:
    given = inputs(shape)
    exact = expected(shape, given)
    for threads in (1, 2, 5):
        assert np.abs(attention(graph, shape, given, threads) - exact).max() < MAX_ERROR


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 1), (1, 1), (6, 2)])
def test_a_tokens_attention_hangs_neither_on_other_tokens_nor_on_threads(graph: GgmlGraph, heads: int, kv_heads: int) -> None:
    shape = Shape(tokens=40, cells=300, heads=heads, kv_heads=kv_heads)
    given = inputs(shape)
    together = attention(graph, shape, given)
    for first, count, threads in ((0, 1, 1), (0, 1, 2), (3, 2, 5), (7, 9, 2), (1, 30, 1)):
        part = replace(given, queries=given.queries[:, :, first : first + count], mask=given.mask[:, :, first : first + count])
        alone = attention(graph, replace(shape, tokens=count), part, threads)
        assert (alone == together[:, first : first + count]).all()


def test_where_masked_cells_lie_does_not_change_a_tokens_attention(graph: GgmlGraph) -> None:
    shape = Shape(tokens=5, cells=90)
    given = inputs(shape)
    wider = replace(shape, cells=150)
    own = np.sort(np.random.default_rng(4).choice(150, 90, replace=False))
    keys, values = (np.ones((1, 1, 150, shape.length), np.float16) for _ in range(2))
    mask = np.full((1, 1, 5, 150), -np.inf, np.float16)
    keys[:, :, own], values[:, :, own], mask[..., own] = given.keys, given.values, given.mask
    assert (
        attention(graph, wider, replace(given, keys=keys, values=values, mask=mask)) == attention(graph, shape, given)
    ).all()
