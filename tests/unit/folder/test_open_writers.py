"""A file that somebody has open for writing is neither taken nor disposed of."""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from batch.folder import open_writers
from batch.folder.inbox import source_file as source_file_module
from batch.folder.ledger.file_counts import count_files
from batch.folder.open_writers import Writers, is_lease_whole, read_lease, writers_of
from batch.folder.outbox import disposal as disposal_module
from folder_stage import Stage, staged


def can_tell(folder: Path) -> bool:
    path = folder / "probe"
    path.write_text("x")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return writers_of(descriptor) is Writers.NONE
    finally:
        os.close(descriptor)
        path.unlink()


@pytest.fixture(autouse=True)
def _needs_leases(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if "unsure" not in request.node.name and not can_tell(tmp_path):
        pytest.skip("this system does not say who has a file open")


async def wait(stage: Stage, seconds: float) -> None:
    until = time.monotonic() + seconds
    await stage.until(lambda: time.monotonic() > until)


def test_a_writer_is_seen_by_its_descriptor_and_by_its_mapping(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    descriptor = os.open(path, os.O_RDONLY)
    assert writers_of(descriptor) is Writers.NONE
    with path.open("r+b") as file:
        assert writers_of(descriptor) is Writers.SOME
        mapping = mmap.mmap(file.fileno(), 3)
    assert writers_of(descriptor) is Writers.SOME
    mapping.close()
    with path.open("rb"):
        assert writers_of(descriptor) is Writers.NONE
    os.close(descriptor)


def test_who_opens_a_file_under_a_lease_waits_and_is_noticed_and_nobody_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    descriptor = os.open(path, os.O_RDONLY)
    with read_lease(descriptor) as writers:
        assert writers is Writers.NONE and is_lease_whole(descriptor)
        other = subprocess.Popen([sys.executable, "-c", f"open({os.fspath(path)!r}, 'a').write(' two')"])
        until = time.monotonic() + 20
        while is_lease_whole(descriptor):
            assert time.monotonic() < until
            time.sleep(0.01)
        assert path.read_text() == "one"
    assert other.wait(20) == 0 and path.read_text() == "one two"
    os.close(descriptor)


@pytest.mark.parametrize("wish", ["keep", "move", "delete"])
def test_a_file_whose_writer_pauses_is_taken_whole_once_it_is_closed(tmp_path: Path, wish: str) -> None:
    async def play() -> None:
        async with staged(tmp_path, source=wish) as stage:
            with (stage.inbox / "a.txt").open("w") as file:
                file.write("the first half")
                file.flush()
                await wait(stage, 1.5)  # many times as long as it has to stand still
                assert not stage.tree() and not stage.store.jobs()
                file.write(" and the second")
            await stage.until(stage.has("a.txt.json"))
            assert stage.json("a.txt.json")["text"] == "the first half and the second" and len(stage.ran) == 1

    asyncio.run(play())


def test_a_file_that_was_opened_for_writing_while_it_was_read_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, writers = source_file_module.SourceFile.read_whole, []

    def opened(self: Any, limit: int, setting: str) -> bytes:
        if not writers:
            writers.append((tmp_path / "inbox/a.txt").open("a"))
        return real(self, limit, setting)

    monkeypatch.setattr(source_file_module.SourceFile, "read_whole", opened)

    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("a.txt", "half")
            await stage.until(lambda: writers)
            await wait(stage, 0.5)
            assert not stage.store.jobs()
            writers[0].write(" and half")
            writers[0].close()
            await stage.until(stage.says("a.txt.json", "half and half"))

    asyncio.run(play())


@pytest.mark.parametrize("wish", ["move", "delete"])
def test_a_source_that_is_opened_for_writing_after_it_was_read_stays_until_it_is_closed(tmp_path: Path, wish: str) -> None:
    async def play() -> None:
        async with staged(tmp_path, source=wish) as stage:
            path = stage.drop("a.txt", "one")
            await stage.until(lambda: count_files(stage.store).waiting == 1, work=False)
            with path.open("a"):
                await stage.until(stage.has("a.txt.json"))
                stage.drop("b.txt", "others are not held up")
                await stage.until(lambda: not (stage.inbox / "b.txt").exists())
                assert path.exists()
            await stage.until(lambda: not path.exists())
            await stage.until(lambda: count_files(stage.store).done == 2)
            assert len(stage.ran) == 2

    asyncio.run(play())


def test_what_a_writer_adds_after_the_file_was_read_is_processed_and_not_lost(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path, source="delete") as stage:
            path = stage.drop("a.txt", "one")
            await stage.until(lambda: count_files(stage.store).waiting == 1, work=False)
            with path.open("a") as file:
                file.write(" and two")
            await stage.until(stage.says("a.txt.json", "one and two"))
            await stage.until(lambda: not path.exists())

    asyncio.run(play())


def test_a_source_that_is_being_opened_in_the_moment_of_its_deletion_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [True]
    monkeypatch.setattr(disposal_module, "is_lease_whole", lambda descriptor: not broken[0])

    async def play() -> None:
        async with staged(tmp_path, source="delete") as stage:
            path = stage.drop("a.txt", "one")
            await stage.until(lambda: count_files(stage.store).done == 1)
            assert path.read_text() == "one"

    asyncio.run(play())


# -- where nobody can tell


@pytest.fixture
def nobody_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for another user's file: the system refuses the lease."""
    real = fcntl.fcntl

    def refuse(descriptor: int, command: int, *argument: Any) -> Any:
        if command == fcntl.F_SETLEASE:
            raise PermissionError(13, "Permission denied")
        return real(descriptor, command, *argument)

    monkeypatch.setattr(open_writers.fcntl, "fcntl", refuse)


def test_a_file_whose_writers_are_unsure_has_to_stand_still_for_longer(tmp_path: Path, nobody_can_tell: None) -> None:
    async def play() -> None:
        async with staged(tmp_path, settle_unsure=2, source="delete") as stage:
            path = stage.inbox / "a.txt"
            with path.open("w") as file:
                file.write("the first half")
                file.flush()
                await wait(stage, 1)
                assert not stage.store.jobs()
                file.write(" and the second")
                file.flush()
                started = time.monotonic()
                await stage.until(stage.has("a.txt.json"))
                assert time.monotonic() - started >= 1.5
            assert stage.json("a.txt.json")["text"] == "the first half and the second"

    asyncio.run(play())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports that a file was closed")
def test_a_file_whose_writers_are_unsure_is_taken_soon_when_it_was_seen_to_be_closed_or_moved_in(
    tmp_path: Path, nobody_can_tell: None
) -> None:
    async def play() -> None:
        async with staged(tmp_path, settle_unsure=3600, scan=3600) as stage:
            await stage.until(lambda: stage.folder.watcher.is_watching)
            (stage.inbox / "a.txt").write_text("written and closed")
            stage.drop("b.txt", "moved in under its name")
            await stage.until(stage.has("a.txt.json", "b.txt.json"))

    asyncio.run(play())


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "fuse"])
def test_on_a_file_system_of_other_machines_a_lease_says_nothing_unsure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / "a"
    path.write_text("x")
    device = path.stat().st_dev
    open_writers._is_remote.cache_clear()
    monkeypatch.setattr(open_writers, "_file_systems", lambda: {f"{os.major(device)}:{os.minor(device)}": kind})
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert writers_of(descriptor) is Writers.UNKNOWN
    finally:
        os.close(descriptor)
        open_writers._is_remote.cache_clear()
