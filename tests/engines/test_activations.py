"""GELU and tanh of the library, whichever code the processor has, against numpy: what setup/ changes in llama.cpp's source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ggml_graph import GgmlGraph

EDGES = [0.0, -0.0, 0.625, -0.625, 10.0, -10.0, 1e30, -1e30, np.inf, -np.inf]


@pytest.fixture
def graph() -> Iterator[GgmlGraph]:
    graph = GgmlGraph()
    yield graph
    graph.close()


@pytest.fixture(scope="module")
def numbers() -> Any:
    """Of all magnitudes, and no multiple of eight of them."""
    random = np.random.default_rng(1)
    normal = [random.normal(0, size, 4000) for size in (1e-6, 1e-3, 0.1, 0.6, 1, 3, 30)]
    return np.concatenate([*normal, EDGES, [1.5]]).astype(np.float32)


def gelu(x: Any) -> Any:
    x = np.where(np.isneginf(x), -1e6, x.astype(np.float64))
    return x * (1 + np.tanh(0.7978845608028654 * x * (1 + 0.044715 * np.square(x)))) / 2


def rounding(x: Any) -> Any:
    """How far GELU may be from the exact number where both it and `x` are rounded to half floats."""
    exact = gelu(x)
    return 2 * np.abs(gelu(x * (1 + 2.0**-11)) - exact) + np.abs(exact) / 1024 + 2e-7


def test_tanh_is_numpys_within_four_units_in_the_last_place(graph: GgmlGraph, numbers: Any) -> None:
    computed = graph.compute(graph.operation("ggml_tanh", graph.array(numbers)), 2)
    exact = np.tanh(numbers.astype(np.float64))
    assert (np.abs(computed - exact) <= 4 * np.spacing(np.abs(exact).astype(np.float32))).all()


@pytest.mark.parametrize("gate", [1.0, -2.5])
def test_a_gated_gelu_is_numpys_within_a_half_floats_rounding(graph: GgmlGraph, numbers: Any, gate: float) -> None:
    numbers = numbers[np.abs(numbers) < 1e6]
    gates = graph.array(np.full_like(numbers, gate))
    computed = graph.compute(graph.operation("ggml_geglu_split", graph.array(numbers), gates), 2)
    exact = gelu(numbers)
    assert (np.abs(computed - gate * exact) <= abs(gate) * rounding(numbers)).all()


def test_gelu_of_any_number_is_a_number(graph: GgmlGraph, numbers: Any) -> None:
    computed = graph.compute(graph.operation("ggml_gelu", graph.array(numbers)), 2)
    exact = gelu(numbers)
    finite = np.isfinite(numbers) | np.isneginf(numbers)
    assert (np.abs(computed[finite] - exact[finite]) <= rounding(numbers[finite])).all()
    assert (computed[~finite] == np.inf).all()
