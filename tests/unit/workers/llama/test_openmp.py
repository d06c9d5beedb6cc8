"""Where one thread of a process can be held to one core."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from batch.workers.llama import openmp
from batch.workers.llama.openmp import can_limit_cores, limit_to_one_core


@pytest.mark.parametrize(("levels", "can_limit"), [(threading.local(), True), (SimpleNamespace(), False)], ids=["own", "one"])
def test_one_thread_is_held_to_a_core_only_where_that_holds_no_other(
    monkeypatch: pytest.MonkeyPatch, levels: Any, can_limit: bool
) -> None:
    monkeypatch.setattr(openmp, "_max_active_levels", lambda: getattr(levels, "most", 1))
    monkeypatch.setattr(openmp, "_set_max_active_levels", lambda most: setattr(levels, "most", most))
    assert can_limit_cores() is can_limit
    assert getattr(levels, "most", 1) == 1, "as it was"


def test_where_llama_cpp_was_built_without_openmp_no_thread_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmp, "_max_active_levels", None)
    monkeypatch.setattr(openmp, "_set_max_active_levels", None)
    limit_to_one_core(True)
    assert not can_limit_cores()
