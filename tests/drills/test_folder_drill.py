"""The folder door of a real service that is killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from drill_home import drop
from folder_stage import picture
from running_service import RunningService, wait_until


@pytest.mark.drill
def test_service_killed_every_file_is_done_once_and_none_half_written(
    start_service: Callable[..., RunningService],
) -> None:
    service = start_service()
    wanted: list[str] = []
    seen: dict[Path, str] = {}

    def look() -> None:
        for path in service.outbox.rglob("*.json"):
            found = path.read_text("utf-8")  # never half-written: it is JSON at any time
            document = json.loads(found)
            assert document["embedding"]["vectors"], path
            assert document["kind"] == "text" or path.with_suffix(".txt").exists()
            assert seen.setdefault(path, found) == found, f"{path} was written twice"

    for round in range(3):
        for number in range(50):
            name = f"{round}/{number}" + (".txt" if number % 2 else ".png")
            drop(service, name, f"text {name}".encode() if number % 2 else picture(f"#{number:02x}{round:02x}77", "PNG"))
            wanted.append(name)
        some = round * 50 + 10 * (round + 1)
        wait_until(lambda some=some: len(list(service.outbox.rglob("*.json"))) >= some, "some results")
        service.kill()
        look()
        service.start()
    wait_until(lambda: all((service.outbox / f"{name}.json").exists() for name in wanted), "all results")
    look()
    assert len(seen) == len(wanted)
    status = lambda: json.loads(service.command("status", "--json").stdout)["inbox"]  # noqa: E731
    wait_until(lambda: status() == {"waiting": 0, "done": 150, "failed": 0, "linked": 0}, "the status says so")
    assert service.stop() == 0
    assert not [path for path in service.outbox.rglob(".batch-*")]
