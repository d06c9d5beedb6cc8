"""Batches whose worker and service are killed at random: every line stands in one of the result files, once."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from running_service import WEIGHTLESS, RunningService, wait_until

LINES = int(os.environ.get("DRILL_LINES", "400"))
KILLS = int(os.environ.get("DRILL_KILLS", "25"))
CHAT = "/v1/chat/completions"


def write_requests(path: Path, count: int) -> None:
    with path.open("w") as file:
        for number in range(count):
            text = "refuse" if number % 40 == 7 else f"line {number} says a few words"
            body = {"messages": [{"role": "user", "content": text}], "seed": 4}
            file.write(json.dumps({"custom_id": f"n{number}", "method": "POST", "url": CHAT, "body": body}) + "\n")


def result_lines(service: RunningService, id: str | None) -> list[dict[str, Any]]:
    if id is None:
        return []
    import urllib.request

    with urllib.request.urlopen(service.url("vlm", f"/v1/files/{id}/content"), timeout=60) as answer:
        return [json.loads(line) for line in answer.read().splitlines()]


@pytest.mark.drill
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_is_killed_every_line_of_a_batch_stands_once_in_output_or_errors(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    requests = tmp_path / "requests.jsonl"
    write_requests(requests, LINES)
    home = tmp_path / "home"
    home.mkdir()
    with RunningService(home, {**WEIGHTLESS, "BATCH_QUEUE__ATTEMPTS": "1000"}) as service:
        ids = [service.command("run", str(requests), "--detach").stdout.strip() for _ in range(2)]
        for _ in range(KILLS):
            time.sleep(draw.uniform(0.0, 0.6))  # the moment is what is drawn
            if draw.random() < 0.4:
                service.kill()
                service.start()
            else:
                with contextlib.suppress(ProcessLookupError, AssertionError):
                    os.kill(service.worker_pid("vlm"), signal.SIGKILL)
        service.ready("vlm")
        batches = [wait_until(lambda id=id: _ended(service, id), f"{id} ended\n{service.output[-2000:]}", 240) for id in ids]
        for batch in batches:
            assert batch["status"] == "completed"
            output = result_lines(service, batch["output_file_id"])
            errors = result_lines(service, batch["error_file_id"])
            assert Counter(line["custom_id"] for line in output + errors) == Counter(f"n{n}" for n in range(LINES))
            assert {line["custom_id"] for line in errors} == {f"n{n}" for n in range(LINES) if n % 40 == 7}
            assert batch["request_counts"] == {"total": LINES, "completed": len(output), "failed": len(errors)}
    assert list((home / ".batch" / "batches").glob("*")) == [], "no growing file is left"


@pytest.mark.drill
@pytest.mark.timeout(300)
@pytest.mark.parametrize("end", ["cancelled", "expired"])
def test_a_batch_that_is_stopped_while_everything_is_killed_has_every_line_once(tmp_path: Path, end: str) -> None:
    draw = random.Random(end)
    requests, home = tmp_path / "requests.jsonl", tmp_path / "home"
    write_requests(requests, LINES)
    home.mkdir()
    with RunningService(home, {**WEIGHTLESS, "BATCH_QUEUE__ATTEMPTS": "1000"}) as service:
        id = service.command("run", str(requests), "--detach").stdout.strip()
        wait_until(lambda: service.get("vlm", f"/v1/batches/{id}")[1]["request_counts"]["completed"] > 20, "it runs")
        service.kill()
        service.start()
        # By the database, so that the stop itself may come while nothing runs, or anything.
        with contextlib.closing(sqlite3.connect(home / ".batch" / "batch.db", timeout=30)) as database, database:
            stopping = {"cancelled": "status='cancelling', cancelling_at=created_at", "expired": "expires_at=created_at"}
            database.execute(f"update batch set {stopping[end]} where id=? and status='in_progress'", (id,))
        for _ in range(4):
            time.sleep(draw.uniform(0.0, 0.5))  # the moment is what is drawn
            service.kill()
            service.start()
        batch = wait_until(lambda: _ended(service, id), f"{id} ended\n{service.output[-2000:]}", 120)
        assert batch["status"] == end
        output = result_lines(service, batch["output_file_id"])
        errors = result_lines(service, batch["error_file_id"])
        assert Counter(line["custom_id"] for line in output + errors) == Counter(f"n{n}" for n in range(LINES))
        codes = {line["error"]["code"] for line in errors if line["error"]}
        assert codes <= {f"batch_{end}"}
        assert batch["request_counts"] == {"total": LINES, "completed": len(output), "failed": len(errors)}
    assert list((home / ".batch" / "batches").glob("*")) == [], "no growing file is left"


def _ended(service: RunningService, id: str) -> dict[str, Any] | None:
    status, batch = service.get("vlm", f"/v1/batches/{id}")
    assert status == 200, batch
    return batch if batch["status"] in ("completed", "failed", "cancelled", "expired") else None
