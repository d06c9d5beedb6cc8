"""How many cores llama.cpp computes with in one thread of this process, by OpenMP's own switch."""

from __future__ import annotations

import threading
from typing import Any

from batch.workers.llama.library import ggml

_ALL_LEVELS = 1
"""Most nested parallel regions that are active: ggml's regions are not nested."""

_set_max_active_levels: Any = getattr(ggml, "omp_set_max_active_levels", None)
_max_active_levels: Any = getattr(ggml, "omp_get_max_active_levels", None)
"""Of the OpenMP library that ggml was linked with; None where it was linked with none."""


def can_limit_cores() -> bool:
    """Whether `limit_to_one_core` does what it says: ggml computes by OpenMP here, whose switch is each thread's own. That of
    GCC 10 and before (Debian 11, Ubuntu 20.04, RHEL 8) has one for the process: decodes would have one core, too."""
    if _set_max_active_levels is None or _max_active_levels is None:
        return False
    before = _max_active_levels()
    thread = threading.Thread(target=_set_max_active_levels, args=(0 if before else 1,))
    thread.start()
    thread.join()
    is_own = bool(_max_active_levels() == before)
    _set_max_active_levels(before)
    return is_own


def limit_to_one_core(limited: bool) -> None:
    """Have what the calling thread computes from now on take one core, whatever number of threads it names, or as many as it
    names again. Other threads go on as they do."""
    if _set_max_active_levels is not None:
        _set_max_active_levels(0 if limited else _ALL_LEVELS)
