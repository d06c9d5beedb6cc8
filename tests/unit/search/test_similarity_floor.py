"""From which cosine on a vector counts as found: what is known of the model, moved by the stored vectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from batch.search.similarity_floor import MAX_SHIFT, SimilarityFloor, floor_of


class Index:
    """As many vectors, and the cosines of its random pairs."""

    def __init__(self, count: int, similarities: list[float]) -> None:
        self._count = count
        self._similarities = np.array(similarities, np.float32)

    def __len__(self) -> int:
        return self._count

    def sample_similarities(self, reader: Any, pairs: int) -> Any:
        return self._similarities[:pairs]


def test_with_few_vectors_the_models_own_value_stands() -> None:
    assert floor_of(np.full(99, 0.9, np.float32), 0.2) == 0.2


def test_stored_vectors_move_it_by_a_bound() -> None:
    assert floor_of(np.full(500, 0.9, np.float32), 0.2) == 0.2 + MAX_SHIFT
    assert floor_of(np.full(500, -0.1, np.float32), 0.2) == 0.2 - MAX_SHIFT
    assert abs(floor_of(np.full(500, 0.25, np.float32), 0.2) - 0.25) < 1e-6


def test_a_search_of_which_nothing_is_known_does_not_decide_for_those_that_follow() -> None:
    floor, few = SimilarityFloor(), Index(10, [])
    reader: Any = None
    index: Any = few
    assert [floor.value(index, reader, usual) for usual in (0.0, 0.17, 0.0)] == [0.0, 0.17, 0.0]
