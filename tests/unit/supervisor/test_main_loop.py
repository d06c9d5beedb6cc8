"""How a process ends whose loop ended as it should not."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch.errors import SettingsProblem
from batch.settings import Settings
from batch.supervisor.main_loop import BREAKDOWN_STATUS, run_loop


def test_a_fault_of_our_own_ends_the_process_with_a_status_of_its_own_and_says_what_broke_down(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise RuntimeError("staged")

    with pytest.raises(SystemExit) as ended:
        run_loop(fail, Settings(home=tmp_path), "the worker's agent")
    assert ended.value.code == BREAKDOWN_STATUS == 70
    (record,) = [record for record in caplog.records if record.levelname == "CRITICAL"]
    assert record.message == "the worker's agent broke down" and record.exc_info is not None


def test_what_a_person_can_mend_is_raised_as_it_is(tmp_path: Path) -> None:
    async def refuse() -> None:
        raise SettingsProblem("The port is in use.")

    with pytest.raises(SettingsProblem, match="The port is in use"):
        run_loop(refuse, Settings(home=tmp_path), "the service")
