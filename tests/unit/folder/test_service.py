"""The folder's service begins and ends as often as its duty comes and goes, and leaves nothing behind in the hub."""

from __future__ import annotations

import asyncio
from pathlib import Path

from folder_stage import staged


def test_a_folder_service_that_ended_hears_of_no_job_any_more(tmp_path: Path) -> None:
    async def scene() -> None:
        async with staged(tmp_path / "home") as stage:
            assert len(stage.hub.reports.listeners) == 1
        assert stage.hub.reports.listeners == []

    asyncio.run(scene())
