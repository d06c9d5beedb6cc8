"""What `batch status` knows from another process: notes in the database, which must not tell of what was."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import sqlite3
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from batch.cli import app
from batch.errors import DiskFull
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Draft, Kind, Origin, Priority
from batch.queue.open_store import open_store
from batch.queue.spool import Spool
from batch.queue.sqlite.schema import VERSION
from batch.queue.sqlite.sqlite_store import SqliteStore
from batch.supervisor import service_notes
from drill_home import opened
from paths import DATA
from payloads import payload
from running_service import KINDS, WEIGHTLESS, RunningService, wait_until

Start = Callable[..., RunningService]


def test_a_note_that_a_full_disk_did_not_take_is_written_once_there_is_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service_notes, "_RETRY_INTERVAL_S", 0.01)
    real, full, refused = SqliteStore.note, [True], [0]

    def note(self: SqliteStore, notes: dict[str, object]) -> None:
        if full[0]:
            refused[0] += 1
            raise DiskFull()
        real(self, notes)

    monkeypatch.setattr(SqliteStore, "note", note)

    async def until(what: Callable[[], object]) -> None:
        async with asyncio.timeout(60):
            while not what():
                await asyncio.sleep(0.01)

    async def play() -> None:
        store = open_store(tmp_path / ".batch" / "batch.db")
        hub = Hub(store, Spool(tmp_path / "spool"), tmp_path / ".batch")
        noting = asyncio.create_task(service_notes.record_models(store, hub))
        hub.models.update(Kind.VLM, status="ready", pid=4711)
        await until(lambda: hub.recorded_model(Kind.VLM).status == "ready")  # callers are told all the same
        await until(lambda: refused[0] > 10)
        assert "model:vlm" not in store.notes()
        assert sum("is out of date" in record.message for record in caplog.records) <= len(Kind), "told once, not for ever"
        full[0] = False
        await until(lambda: store.notes().get("model:vlm", {}).get("pid") == 4711)
        assert store.notes()["model:stt"]["status"] == "loading"
        noting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await noting
        await hub.close()
        store.close()

    asyncio.run(play())


def test_after_a_kill_and_a_restart_no_model_is_ready_with_a_pid_of_before(start_service: Start) -> None:
    service = start_service().ready()

    def seen() -> tuple[int | None, dict[str, object]]:
        with opened(service) as store:
            notes = store.notes()
        pids = {str(kind): (notes.get(f"model:{kind}") or {}).get("pid") for kind in Kind}
        return (notes.get("service") or {}).get("pid"), pids

    wait_until(lambda: all(seen()[1].values()), "the workers' pids are noted")
    old, before = seen()
    service.kill()
    assert seen() == (old, before)
    starting = threading.Thread(target=service.start)
    starting.start()
    _, after = wait_until(lambda: (found := seen())[0] not in (None, old) and found, "the new service's note")
    starting.join(60)
    assert not set(after.values()) & set(before.values()), "looked at together with the new note"
    assert service.ready().stop() == 0


COMMANDS = [
    ["status"],
    ["status", "--json"],
    ["jobs"],
    ["jobs", "--json"],
    ["show", "JOB"],
    ["retry", "JOB"],
    ["cancel", "JOB"],
    ["submit", "note.txt"],
    ["gc"],
    ["models"],
    ["doctor"],
    ["install-service"],
]


def newer(home: Path) -> str:
    """A home whose database this batch is too old for; returns the id of a job in it."""
    path = home / ".batch" / "batch.db"
    store = open_store(path)
    draft = Draft(payload("chat"), Origin.CLI, Priority.BATCH)
    store.submit(draft)
    store.close()
    with contextlib.closing(sqlite3.connect(path)) as conn:
        conn.execute(f"pragma user_version={VERSION + 1}")
    return draft.id


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_says_in_one_sentence_that_the_database_is_of_a_newer_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    job = newer(tmp_path)
    (tmp_path / "note.txt").write_text("a note")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for kind in Kind:
        monkeypatch.setenv(f"BATCH_{kind.upper()}__PORT", "0")
    monkeypatch.setattr(sys, "argv", ["batch", *(job if word == "JOB" else word for word in command)])
    with pytest.raises(SystemExit) as ended:
        app.main()
    said = capsys.readouterr()
    assert ended.value.code == 1 and not said.out
    assert len(said.err.splitlines()) == 1 and "written by a newer batch" in said.err, said.err


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_brings_a_database_forward_under_an_older_service_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    path, lock = tmp_path / ".batch" / "batch.db", tmp_path / ".batch" / "run" / "service.lock"
    lock.parent.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(path)) as conn:
        conn.executescript((DATA / "schema-3-with-folder.sql").read_text())
        before = conn.execute("pragma user_version").fetchone()
    (tmp_path / "note.txt").write_text("a note")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for kind in Kind:
        monkeypatch.setenv(f"BATCH_{kind.upper()}__PORT", "0")
    monkeypatch.setattr(sys, "argv", ["batch", *command])
    with lock.open("w") as service:
        service.write("4711")
        service.flush()
        fcntl.flock(service, fcntl.LOCK_EX)
        with pytest.raises(SystemExit) as ended:
            app.main()
    said = capsys.readouterr()
    assert ended.value.code == 1 and not said.out
    assert len(said.err.splitlines()) == 1 and "(pid 4711) is of an older batch" in said.err, said.err
    with contextlib.closing(sqlite3.connect(path)) as conn:
        assert conn.execute("pragma user_version").fetchone() == before == (3,)
    open_store(path, readonly=True).close()  # the service has ended
    with contextlib.closing(sqlite3.connect(path)) as conn:
        assert conn.execute("pragma user_version").fetchone() == (VERSION,)


def test_the_service_does_not_start_on_the_database_of_a_newer_batch(tmp_path: Path) -> None:
    newer(tmp_path)
    ports = [word for kind in KINDS for word in (f"--{kind}-port", "0")]
    found = RunningService(tmp_path, WEIGHTLESS).command("serve", *ports)
    assert found.returncode == 1
    assert len(found.stderr.splitlines()) == 1 and "written by a newer batch" in found.stderr, found.stderr
