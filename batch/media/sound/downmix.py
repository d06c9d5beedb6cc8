"""Two channels become one, also where one of them is the other turned upside down."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MEMORY_BLOCKS = 5.0
"""Blocks (of a second or less) after which what was heard has lost two thirds of its weight."""

CANCELLED_SHARE = 0.02
"""The sum's part of the whole energy below which the channels cancel each other: a cable with swapped wires leaves
nothing, while voices in the middle, to one side, or with wide music around them leave a third and more."""


class Downmix:
    """Mono of one stream's blocks. Remembers what it heard, so every stream has one of its own."""

    def __init__(self) -> None:
        self._sum_energy = self._difference_energy = 0.0

    def mono(self, stereo: NDArray[np.float32]) -> NDArray[np.float32]:
        """Samples of shape (n, 2) as n samples: their mean, or half their difference where the mean is silent."""
        mean = (stereo[:, 0] + stereo[:, 1]) * np.float32(0.5)
        difference = (stereo[:, 0] - stereo[:, 1]) * np.float32(0.5)
        fading = np.exp(-1 / MEMORY_BLOCKS)
        self._sum_energy = self._sum_energy * fading + float(np.sum(np.square(mean, dtype=np.float64)))
        self._difference_energy = self._difference_energy * fading + float(np.sum(np.square(difference, dtype=np.float64)))
        whole = self._sum_energy + self._difference_energy
        return difference if self._sum_energy < CANCELLED_SHARE * whole else mean
