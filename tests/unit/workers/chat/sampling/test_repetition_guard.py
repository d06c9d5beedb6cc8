"""Only what has collapsed is stopped."""

from __future__ import annotations

from batch.workers.chat.sampling.repetition_guard import has_collapsed


def test_only_a_long_run_of_the_same_is_a_collapse() -> None:
    assert has_collapsed([1] * 500)
    assert has_collapsed(list(range(20)) + [7, 8, 9] * 200)
    assert not has_collapsed([1] * 300)
    assert not has_collapsed(list(range(500)))
    assert not has_collapsed(list(range(100)) * 5)
