"""The outbox is as careful as the inbox: whoever may write there leads no result elsewhere and stops nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from batch.folder import service as service_module
from batch.folder.inbox.walk import MAX_DEPTH
from batch.folder.ledger.file_counts import count_files
from batch.folder.ledger.ledger import Ledger
from batch.folder.outbox.outbox import Outbox
from folder_stage import Stage, picture, sound, staged


def plant_fifo(path: Path) -> None:
    os.mkfifo(path)


def plant_link(path: Path) -> None:
    path.symlink_to(path.parents[2] / "victim")


def plant_broken_link(path: Path) -> None:
    path.symlink_to(path.parents[2] / "nothing")


def plant_hard_link(path: Path) -> None:
    os.link(path.parents[2] / "victim", path)


def plant_socket(path: Path) -> None:
    # By its name alone: a socket's path holds 108 bytes, and a temporary folder's may be longer.
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)


def plant_sparse_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


PLANTS = [plant_fifo, plant_link, plant_broken_link, plant_hard_link, plant_socket, plant_sparse_file]


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("name", ["a.png.json", "a.png.txt", "a.png.error.json", ".batch-1.json.tmp", ".batch-1.txt.tmp"])
def test_whatever_lies_in_a_results_place_is_replaced_and_nothing_else_is_touched(
    tmp_path: Path, plant: Callable[[Path], None], name: str
) -> None:
    (tmp_path / "victim").write_text("somebody else's")

    async def play() -> None:
        stage = Stage(tmp_path / "home")
        stage.outbox.mkdir(parents=True)
        plant(stage.outbox / name)
        await stage.folder.start()
        stage.drop("a.png", picture(format="PNG"))
        await stage.until(lambda: count_files(stage.store).done == 1)
        assert stage.tree() == ["a.png.json", "a.png.txt"]
        assert all(stat.S_ISREG((stage.outbox / name).lstat().st_mode) for name in stage.tree())
        started = time.monotonic()
        await stage.close()
        assert time.monotonic() - started < 9, "a stop waits for nothing that lies in the outbox"

    asyncio.run(play())
    assert (tmp_path / "victim").read_text() == "somebody else's"


@pytest.mark.parametrize("where", ["sub", "sub/deeper"])
def test_a_link_in_the_place_of_an_outbox_folder_is_not_followed_and_keeps_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    async def play() -> None:
        async with staged(tmp_path / "home") as stage:
            (stage.outbox / where).parent.mkdir(exist_ok=True)
            (stage.outbox / where).symlink_to(elsewhere)
            stage.drop(f"{where}/a.wav", sound())
            stage.drop("b.txt", "two")
            await stage.until(stage.has("b.txt.json"))
            await stage.until(lambda: count_files(stage.store).waiting == 1 and len(stage.ran) == 3)
            stage.drop("c.txt", "three")
            await stage.until(stage.has("c.txt.json"))
            assert os.listdir(elsewhere) == []
            errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
            assert len(errors) == 1 and "a link or a file stands in the place of a folder" in errors[0]
            (stage.outbox / where).unlink()
            await stage.until(stage.has(f"{where}/a.wav.json"))
        assert os.listdir(elsewhere) == []

    asyncio.run(play())


def test_clearing_an_earlier_result_follows_no_link(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.txt.json").write_text("somebody else's")

    async def play() -> None:
        async with staged(tmp_path / "home") as stage:
            (stage.outbox / "sub").symlink_to(elsewhere)
            stage.drop("sub/a.txt", "one")
            await stage.until(lambda: count_files(stage.store).waiting == 1)
        assert os.listdir(elsewhere) == ["a.txt.json"]

    asyncio.run(play())


def test_a_pipe_in_a_results_place_is_no_result_at_the_next_start(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("a.txt", "one")
            await stage.until(lambda: count_files(stage.store).done == 1)
        (stage.outbox / "a.txt.json").unlink()
        os.mkfifo(stage.outbox / "a.txt.json")
        async with staged(tmp_path) as stage:
            await stage.until(lambda: (stage.outbox / "a.txt.json").is_file())
            assert not stage.ran

    asyncio.run(play())


def test_a_disk_that_never_answers_does_not_keep_the_service_from_stopping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    released, is_hanging = threading.Event(), threading.Event()
    monkeypatch.setattr(service_module, "_STOP_TIMEOUT_S", 0.5)

    def hang(self: Outbox, *_: object) -> bool:
        is_hanging.set()
        released.wait(60)
        return True

    monkeypatch.setattr(Outbox, "deliver", hang)

    async def play() -> None:
        async with staged(tmp_path) as stage:
            await stage.until(is_hanging.is_set)
            started = time.monotonic()
        assert time.monotonic() - started < 40

    try:
        asyncio.run(play())
    finally:
        released.set()
    assert "the outbox does not answer: the service stops without it" in caplog.text


def test_a_tree_of_thousands_of_levels_is_entered_to_a_bound_and_recorded(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            levels = [os.fspath(stage.inbox) + "/d" * depth for depth in range(1, 1200)]
            for level in levels:
                os.mkdir(level)
            for depth in (MAX_DEPTH, MAX_DEPTH + 1):
                stage.drop("/".join(["d"] * depth) + f"/{depth}.txt", "deep down")
            deep = "/".join(["d"] * MAX_DEPTH)
            await stage.until(stage.has(f"{deep}/{MAX_DEPTH}.txt.json", f"{deep}/d.error.json"))
            assert "lies deeper than 128 folders" in stage.json(f"{deep}/d.error.json")["error"]
            assert len(stage.tree()) == 2
            for level in reversed(levels):  # pytest's own removal would end where Python's stack does
                shutil.rmtree(level)

    asyncio.run(play())


# -- who may read results


@pytest.mark.parametrize(
    ("access", "file", "folder"), [("owner", 0o600, 0o700), ("group", 0o640, 0o750), ("all", 0o644, 0o755)]
)
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_who_may_read_results_is_a_setting_and_not_the_umask(
    tmp_path: Path, access: str, file: int, folder: int, umask: int
) -> None:
    async def play() -> None:
        async with staged(tmp_path, outbox={"access": access}, source="move") as stage:
            stage.drop("x/a.png", picture(format="PNG"))
            stage.drop("x/b.xyz", "what is this")
            await stage.until(stage.has("x/a.png.json", "x/b.xyz.error.json"))
            await stage.until(lambda: (tmp_path / "done/x/a.png").exists())
            assert {stat.S_IMODE((stage.outbox / name).stat().st_mode) for name in stage.tree()} == {file}
            made = (stage.outbox, stage.outbox / "x", tmp_path / "done")
            assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {folder}

    before = os.umask(umask)
    try:
        asyncio.run(play())
    finally:
        os.umask(before)


def test_an_outbox_that_is_there_keeps_the_rights_that_somebody_gave_it(tmp_path: Path) -> None:
    (tmp_path / "outbox").mkdir()
    (tmp_path / "outbox").chmod(0o775)

    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("a.txt", "one")
            await stage.until(stage.has("a.txt.json"))
        assert stat.S_IMODE((tmp_path / "outbox").stat().st_mode) == 0o775

    asyncio.run(play())


# -- results that were taken away


def test_results_that_were_moved_out_of_the_outbox_do_not_come_back_where_that_is_set(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path, outbox={"again": False}) as stage:
            for name in ("a.txt", "b.txt"):
                stage.drop(name, name)
            await stage.until(lambda: count_files(stage.store).done == 2)
        (stage.outbox / "a.txt.json").unlink()
        async with staged(tmp_path, outbox={"again": False}) as stage:
            stage.drop("c.txt", "three")
            await stage.until(stage.has("c.txt.json"))
            assert not await stage.folder.scan()
            assert stage.tree() == ["b.txt.json", "c.txt.json"] and len(stage.ran) == 1
            stage.drop("a.txt", "dropped anew")
            await stage.until(stage.says("a.txt.json", "dropped anew"))

    asyncio.run(play())


def test_a_result_in_delivery_when_the_service_was_killed_is_delivered_also_where_nothing_is_written_again(
    tmp_path: Path,
) -> None:
    async def play() -> None:
        async with staged(tmp_path, outbox={"again": False}) as stage:
            stage.drop("a.txt", "one")
            await stage.until(lambda: count_files(stage.store).done == 1)
            (stage.outbox / "a.txt.json").unlink()
            Ledger(stage.store).deliver_again([1])  # as it stood before it was recorded
        async with staged(tmp_path, outbox={"again": False}) as stage:
            await stage.until(stage.has("a.txt.json"))

    asyncio.run(play())
