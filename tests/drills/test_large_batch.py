"""A batch of many lines and one of few long ones: what the service's memory does, at a smaller size than bench/batches.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from paths import ROOT
from running_service import WEIGHTLESS, RunningService

sys.path.insert(0, str(ROOT / "bench"))

LINES = int(os.environ.get("LOAD_LINES", "3000"))
MEGABYTES = int(os.environ.get("LOAD_MEGABYTES", "120"))


@pytest.mark.drill
@pytest.mark.timeout(600)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_the_services_memory_does_not_grow_with_the_lines_or_the_bytes_of_a_batch(tmp_path: Path) -> None:
    import batches as bench

    home = tmp_path / "home"
    home.mkdir()
    with RunningService(home, WEIGHTLESS) as service:
        service.ready()
        _, small = bench.run_batch(service, bench.write_lines(tmp_path / "small.jsonl", 100))
        _, many = bench.run_batch(service, bench.write_lines(tmp_path / "many.jsonl", LINES))
        count = MEGABYTES * (1 << 20) // bench.LONG_LINE_BYTES
        _, long = bench.run_batch(service, bench.write_lines(tmp_path / "long.jsonl", count, bench.LONG_LINE_BYTES - 300))
    assert many < small + (40 << 20), "lines"
    assert long < bench.BAR_MEMORY_BYTES, "bytes"
    assert many < bench.BAR_MEMORY_BYTES
