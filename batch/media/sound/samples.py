"""What decoded sound is here: 16 kHz, one channel, float32 in [-1, 1]. Imports no decoder."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
"""Samples a second, of everything that is decoded."""

MAX_HOURS = 48
"""Longest sound taken; more is a mistake or a bomb."""

Samples = NDArray[np.float32]
"""Shape (n,)."""
