from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from batch.cpu_sharing.core_table import CoreTable, usable
from running_service import wait_until

_NEIGHBOUR = """
import sys
from pathlib import Path
from batch.cpu_sharing.core_table import CoreTable
table = CoreTable(Path(sys.argv[1]))
table.busy(1.0)
print("busy", flush=True)
sys.stdin.readline()
table.busy(0.0)
print("idle", flush=True)
sys.stdin.readline()
"""


def test_a_worker_alone_has_all_cores_and_shares_them_while_another_computes(tmp_path: Path) -> None:
    path = tmp_path / "cores"
    mine = CoreTable(path)
    mine.busy(1.0)
    assert mine.threads() == usable()
    with subprocess.Popen(
        [sys.executable, "-c", _NEIGHBOUR, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as neighbour:
        assert neighbour.stdin and neighbour.stdout
        assert neighbour.stdout.readline() == "busy\n"
        assert mine.threads() == max(1, usable() // 2)
        neighbour.stdin.write("\n")
        neighbour.stdin.flush()
        assert neighbour.stdout.readline() == "idle\n"
        assert mine.threads() == usable()
        neighbour.kill()


def test_cores_that_other_programs_keep_busy_are_left_to_them(tmp_path: Path) -> None:
    mine = CoreTable(tmp_path / "cores")
    mine.busy(1.0)
    assert mine.threads(others=0.5) == usable()
    assert mine.threads(others=0.67) == max(1, usable() - 1)
    assert mine.threads(others=1000.0) == 1


@pytest.mark.slow
def test_a_killed_neighbour_gives_its_cores_back(tmp_path: Path, monkeypatch: object) -> None:
    import batch.cpu_sharing.core_table as cores

    path = tmp_path / "cores"
    mine = CoreTable(path)
    mine.busy(1.0)
    with subprocess.Popen(
        [sys.executable, "-c", _NEIGHBOUR, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as neighbour:
        assert neighbour.stdout and neighbour.stdout.readline() == "busy\n"
        neighbour.kill()
    wait_until(lambda: mine.threads() == usable(), "the dead neighbour is forgotten", cores._STALE + 10)
