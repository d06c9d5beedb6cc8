"""From which cosine on a vector counts as found, for a model: what random pairs of its own vectors seldom reach."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from batch.search.index.reader import IndexReader
from batch.search.index.vector_index import VectorIndex

SAMPLED_PAIRS = 1000
MIN_PAIRS = 100
"""With fewer the model's own value stands."""
DEVIATIONS = 2.0
"""Standard deviations above the mean of random pairs."""
MAX_SHIFT = 0.1
"""By which the stored vectors may move a model's own value: a folder full of like pictures must not hide them all."""


class SimilarityFloor:
    """Calibrated again when the index has grown by a half."""

    def __init__(self) -> None:
        self._count = 0
        self._similarities: npt.NDArray[np.float32] | None = None

    def value(self, index: VectorIndex, reader: IndexReader, usual: float) -> float:
        """The floor for the vectors of an index; `usual` is what is known of its model, 0 where nothing is."""
        count = len(index)
        if self._similarities is None or not self._count / 1.5 <= count <= self._count * 1.5:
            self._count = count
            self._similarities = index.sample_similarities(reader, SAMPLED_PAIRS)
        return floor_of(self._similarities, usual)


def floor_of(similarities: npt.NDArray[np.float32], usual: float) -> float:
    """The floor that cosines of random pairs suggest, near `usual` where that is known."""
    if len(similarities) < MIN_PAIRS:
        return usual
    measured = float(similarities.mean() + DEVIATIONS * similarities.std())
    if usual:
        return min(max(measured, usual - MAX_SHIFT), usual + MAX_SHIFT)
    return min(max(measured, 0.0), 0.6)
