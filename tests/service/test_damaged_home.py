"""A service whose database is damaged says so everywhere, and goes on once it is repaired."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from running_service import RunningService, wait_until

Start = Callable[..., RunningService]


def test_a_damaged_database_is_told_in_one_sentence_and_repair_brings_the_home_back(start_service: Start) -> None:
    service = start_service(BATCH_QUEUE__BACKUP_HOURS="0.0001").ready()
    service.inbox.joinpath("note.txt").write_text("A note.\n")
    wait_until(lambda: (service.outbox / "note.txt.json").exists(), "the note's result")
    assert service.stop() == 0
    started = time.time()
    service.start().ready("embedding")

    def copied_since() -> bool:
        return (json.loads(service.command("status", "--json").stdout)["backup_at"] or 0.0) >= started

    wait_until(copied_since, "a copy with the note in it")
    copied = service.command("backup", str(service.home / "copy.db"))
    assert copied.returncode == 0 and (service.home / "copy.db").stat().st_size > 0, copied.stderr
    assert service.command("backup", str(service.home / "copy.db")).returncode != 0, "nothing is overwritten"
    service.kill()
    database: Path = service.home / ".batch" / "batch.db"
    for ending in ("-wal", "-shm"):
        Path(f"{database}{ending}").unlink(missing_ok=True)
    database.write_bytes(b"\x5a" * database.stat().st_size)
    for command in (["status"], ["jobs"], ["doctor"], ["serve"]):
        ended = service.command(*command)
        said = ended.stdout + ended.stderr
        assert ended.returncode != 0 and "batch repair" in said and "Traceback" not in said, (command, said)
    repaired = service.command("repair", "--json")
    assert repaired.returncode == 0, repaired.stderr
    assert json.loads(repaired.stdout)["from_backup"] >= 1
    service.start().ready("embedding")
    assert service.call("embedding", "/v1/embeddings", {"input": "x"})[0] == 200
    assert service.command("repair").returncode != 0, "not under a service that runs"
    assert service.stop() == 0


def test_repair_without_a_backup_takes_up_from_the_outbox_what_that_holds(start_service: Start) -> None:
    service = start_service(BATCH_QUEUE__BACKUP_BYTES="0").ready()
    (service.inbox / "gone").mkdir()
    (service.inbox / "gone/.batch.toml").write_text('source = "delete"\n')
    service.inbox.joinpath("kept.txt").write_text("A note about herons.\n")
    service.inbox.joinpath("gone/b.txt").write_text("A note about otters.\n")
    wait_until(lambda: all((service.outbox / f"{name}.json").exists() for name in ("kept.txt", "gone/b.txt")), "both results")
    wait_until(lambda: not (service.inbox / "gone/b.txt").exists(), "the source is gone")
    assert service.stop() == 0
    results = {path: path.read_bytes() for path in service.outbox.rglob("*.json")}
    database: Path = service.home / ".batch" / "batch.db"
    assert not (service.home / ".batch/backup").exists()
    database.write_bytes(b"\x5a" * database.stat().st_size)
    repaired = service.command("repair", "--json")
    assert repaired.returncode == 0, repaired.stderr
    counts = json.loads(repaired.stdout)
    assert (counts["jobs"], counts["from_outbox"], counts["indexed"]) == (0, 2, 2)
    found = service.command("search", "otters", "--json")
    assert found.returncode == 0 and "gone/b.txt" in found.stdout, found.stderr
    service.start().ready("embedding")
    service.inbox.joinpath("new.txt").write_text("Something else.\n")
    wait_until(lambda: (service.outbox / "new.txt.json").exists(), "the service goes on")
    assert len(service.states("embedding", 9)) == 1, "what lies in the inbox as it was is not done again"
    inbox = json.loads(service.command("status", "--json").stdout)["inbox"]
    assert inbox == {"waiting": 0, "done": 3, "failed": 0, "linked": 0}
    assert service.stop() == 0
    assert results == {path: path.read_bytes() for path in results}


def test_a_spool_that_is_a_file_ends_the_start_with_a_sentence(tmp_path: Path) -> None:
    state = tmp_path / ".batch"
    state.mkdir()
    (state / "spool").write_text("not a folder")
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "batch",
            "serve",
            "--home",
            str(tmp_path),
            *(["--vlm-port=0", "--embedding-port=0", "--stt-port=0"]),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1 and "Traceback" not in ended.stderr and "spool" in ended.stderr, ended.stderr
