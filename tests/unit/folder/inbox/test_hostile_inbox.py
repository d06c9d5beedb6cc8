"""Who may write into the inbox gets results there, and nothing else."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from batch.errors import SettingsProblem
from batch.folder.inbox import walk as walk_module
from batch.folder.ledger.file_counts import count_files
from batch.folder.outbox import disposal as disposal_module
from batch.queue.jobs import State
from batch.settings import Settings
from folder_stage import Stage, picture, sound, staged

STRANGER = 12345
"""A user id that is not the tests'."""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to other users")


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


# -- settings files choose only among places below the home's done folder


@pytest.mark.parametrize("done", ["/elsewhere", "../../elsewhere", "..", "a/../../b", "~/elsewhere", "~root"])
def test_a_settings_file_cannot_have_files_moved_out_of_the_done_folder(tmp_path: Path, done: str) -> None:
    async def play() -> None:
        async with staged(tmp_path / "home") as stage:
            stage.drop("x/.batch.toml", f'source = "move"\ndone = "{done}"')
            stage.drop("x/usercustomize.py.txt", "print('not yours')")
            await stage.until(stage.has("x/usercustomize.py.txt.json", "x/.batch.toml.error.json"))
            await stage.until(lambda: count_files(stage.store).waiting == 0)
            assert (stage.inbox / "x/usercustomize.py.txt").exists()
            assert "leads out of it" in stage.json("x/.batch.toml.error.json")["error"]
        assert not (tmp_path / "home/done").exists() and sorted(os.listdir(tmp_path)) == ["home"]

    asyncio.run(play())


def test_a_settings_file_chooses_among_places_below_the_done_folder(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path, done="finished") as stage:
            stage.drop("x/.batch.toml", 'source = "move"\ndone = "meetings/2026"')
            stage.drop("x/y/a.txt", "one")
            await stage.until(lambda: files_below(tmp_path / "finished") == ["meetings/2026/x/y/a.txt"])

    asyncio.run(play())


def test_a_done_folder_recorded_by_an_older_version_leads_nowhere_else(tmp_path: Path) -> None:
    """Rows of before hold the path that a settings file named."""

    async def play() -> None:
        async with staged(tmp_path / "home", source="move") as stage:
            stage.drop("a.txt", "one")
            await stage.until(lambda: count_files(stage.store).waiting == 1, work=False)
            with stage.store.transaction() as transaction:
                rules = {"formats": ["txt"], "source": "move", "done": str(tmp_path / "elsewhere")}
                transaction.execute("update file set rules=?", (json.dumps(rules),))
            await stage.until(lambda: files_below(tmp_path / "home/done") == ["a.txt"])
        assert not (tmp_path / "elsewhere").exists()

    asyncio.run(play())


def spoil_owner(path: Path) -> None:
    os.chown(path, STRANGER, -1)


def spoil_rights(path: Path) -> None:
    path.chmod(0o666)


def spoil_group(path: Path) -> None:
    os.chown(path, -1, STRANGER)
    path.chmod(0o664)


def spoil_links(path: Path) -> None:
    os.link(path, path.with_name("second name"))


@as_root
@pytest.mark.parametrize("spoil", [spoil_owner, spoil_rights, spoil_group, spoil_links])
@pytest.mark.parametrize("text", ['source = "delete"', 'source = "move"', 'done = "x"'])
def test_files_are_moved_and_deleted_only_by_settings_that_the_services_user_alone_can_write(
    tmp_path: Path, spoil: Any, text: str
) -> None:
    async def play() -> None:
        stage = Stage(tmp_path)
        folder = stage.inbox / "x"
        folder.mkdir(parents=True)
        (folder / ".batch.toml").write_text(f'{text}\ncaption_prompt = "mine"')
        spoil(folder / ".batch.toml")
        await stage.folder.start()
        stage.drop("x/a.txt", "one")
        await stage.until(stage.has("x/a.txt.json", "x/.batch.toml.error.json"))
        await stage.until(lambda: count_files(stage.store).waiting == 0)
        assert (folder / "a.txt").exists() and not (tmp_path / "done").exists()
        assert "belongs to the user of the service" in stage.json("x/.batch.toml.error.json")["error"]
        await stage.close()

    asyncio.run(play())


@as_root
def test_a_strangers_settings_file_may_set_everything_that_takes_nothing_away(tmp_path: Path) -> None:
    async def play() -> None:
        stage = Stage(tmp_path)
        (stage.inbox / "x").mkdir(parents=True)
        (stage.inbox / "x/.batch.toml").write_text('source = "keep"\ncaption_prompt = "What colour?"')
        spoil_owner(stage.inbox / "x/.batch.toml")
        await stage.folder.start()
        stage.drop("x/a.png", picture(format="PNG"))
        await stage.until(stage.has("x/a.png.json"))
        assert stage.json("x/a.png.json")["parameters"]["prompt"] == "What colour?"
        await stage.close()

    asyncio.run(play())


# -- nothing feeds on itself


@pytest.mark.parametrize("done", ["inbox/done", "inbox/deep/er/done"])
def test_a_done_folder_inside_the_inbox_feeds_nothing_back_whatever_the_settings_files_say(tmp_path: Path, done: str) -> None:
    async def play() -> None:
        async with staged(tmp_path, done=done) as stage:
            stage.drop(".batch.toml", 'source = "move"\ndone = "sub"')
            stage.drop("a.txt", "one")
            stage.drop("deep/b.txt", "two")
            await stage.until(lambda: files_below(tmp_path / done) == ["sub/a.txt", "sub/deep/b.txt"])
            await stage.until(lambda: count_files(stage.store).done == 2)
            assert not await stage.folder.scan()
            assert stage.tree() == ["a.txt.json", "deep/b.txt.json"]

    asyncio.run(play())


def test_a_done_folder_that_a_link_leads_into_the_inbox_feeds_nothing_back(tmp_path: Path) -> None:
    (tmp_path / "inbox/finished").mkdir(parents=True)
    (tmp_path / "done").symlink_to("inbox/finished")

    async def play() -> None:
        async with staged(tmp_path, source="move") as stage:
            stage.drop("a.txt", "one")
            await stage.until(lambda: (stage.inbox / "finished/a.txt").exists())
            await stage.until(lambda: count_files(stage.store).done == 1)
            assert not await stage.folder.scan()
            assert stage.tree() == ["a.txt.json"]

    asyncio.run(play())


def test_a_done_folder_inside_the_inbox_that_was_replaced_by_a_link_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    async def play() -> None:
        async with staged(tmp_path / "home", source="move", done="inbox/done") as stage:
            (stage.inbox / "done").symlink_to(elsewhere)
            stage.drop("authorized_keys.txt", "mine")
            await stage.until(stage.has("authorized_keys.txt.json"))
            await stage.until(lambda: count_files(stage.store).done == 1)
            assert (stage.inbox / "authorized_keys.txt").exists()
        assert files_below(elsewhere) == []

    asyncio.run(play())


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ('outbox = "inbox"', "one folder"),
        ('outbox = "inbox/results"', "lies inside the other"),
        ('inbox = "outbox/in"', "lies inside the other"),
        ('[outbox]\npath = "inbox"', "one folder"),
        ('outbox = "link"', "one folder"),
        ('inbox = "."\noutbox = "../out"\n[folder]\ndone = "../done"', "the settings"),
        ('inbox = "."', "taken in again"),
        ('inbox = ".."', "taken in again"),
        ('[folder]\ndone = "inbox"', "folder for finished files"),
        ('[folder]\ndone = "link"', "folder for finished files"),
        ('[folder]\ndone = "."', "folder for finished files"),
        ('[folder]\ndone = "outbox"', "could not be told apart"),
        ('[folder]\ndone = "outbox/done"', "could not be told apart"),
    ],
)
def test_folders_that_would_feed_on_each_other_are_refused_in_one_sentence(tmp_path: Path, toml: str, words: str) -> None:
    home = tmp_path / "home"
    (home / "inbox").mkdir(parents=True)
    (home / "link").symlink_to("inbox")
    (home / "batch.toml").write_text(toml)
    with pytest.raises(SettingsProblem) as refused:
        Settings.load(home)
    assert words in refused.value.message and "\n" not in refused.value.message


# -- folders that cannot be looked into


def test_a_folder_that_cannot_be_looked_into_is_logged_and_recorded_until_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Injected, as root may look into any folder.
    real, is_locked = walk_module.open_folder_below, [True]

    def refuse(root: Any, path: str) -> int:
        if is_locked[0] and path == "x/locked":
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return real(root, path)

    monkeypatch.setattr(walk_module, "open_folder_below", refuse)

    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("x/locked/a.txt", "hidden")
            stage.drop("x/b.txt", "seen")
            await stage.until(stage.has("x/locked.error.json", "x/b.txt.json"))
            error = stage.json("x/locked.error.json")
            assert error["source"] == "x/locked" and "x/locked cannot be read: Permission denied" in error["error"]
            for _ in range(3):
                await stage.folder.scan()
            assert [r.getMessage() for r in caplog.records if "x/locked" in r.getMessage()] == [
                "x/locked cannot be read: Permission denied."
            ]
        async with staged(tmp_path) as stage:  # a new service knows of it still
            assert count_files(stage.store).failed == 1
            is_locked[0] = False
            await stage.until(stage.has("x/locked/a.txt.json"))
            await stage.until(lambda: not (stage.outbox / "x/locked.error.json").exists())
            assert count_files(stage.store).failed == 0

    asyncio.run(play())


def test_a_folder_whose_files_cannot_be_seen_is_recorded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from batch.folder.inbox import inbox as inbox_module

    real = inbox_module.inspect

    def refuse(root: str, path: str) -> Any:
        if path.startswith("x/"):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return real(root, path)

    monkeypatch.setattr(inbox_module, "inspect", refuse)

    async def play() -> None:
        async with staged(tmp_path) as stage:
            for number in range(5):
                stage.drop(f"x/{number}.txt", "hidden")
            await stage.until(stage.has("x.error.json"))
            assert stage.tree() == ["x.error.json"]

    asyncio.run(play())


# -- large files beside small ones


def test_a_small_note_does_not_wait_behind_the_copy_of_a_film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from batch.folder.inbox import large_copies as large_module
    from batch.folder.inbox import source_file as source_file_module

    monkeypatch.setattr("batch.folder.inbox.inbox.LARGE_BYTES", 1000)
    assert large_module.LARGE_BYTES <= 64 << 20
    released = asyncio.Event()
    real = source_file_module.SourceFile.chunks

    def slow(self: Any) -> Any:
        for chunk in real(self):
            while self.path == "film.wav" and not released.is_set():
                if not self._is_going():
                    raise source_file_module.StillChanging
                os.sched_yield()
            yield chunk

    monkeypatch.setattr(source_file_module.SourceFile, "chunks", slow)

    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("film.wav", sound(1.0))
            stage.drop("note.txt", "dropped with it")
            await stage.until(stage.has("note.txt.json"))
            stage.drop("later.txt", "dropped while it is copied")
            await stage.until(stage.has("later.txt.json"))
            assert not stage.has("film.wav.json")()
            released.set()
            await stage.until(stage.has("film.wav.json"))
            assert [job.task for job in stage.ran].count("transcribe") == 1

    asyncio.run(play())


def test_a_service_that_stops_does_not_wait_for_the_copy_of_a_film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from batch.folder.inbox import source_file as source_file_module

    monkeypatch.setattr("batch.folder.inbox.inbox.LARGE_BYTES", 1000)
    real = source_file_module.SourceFile.chunks

    def endless(self: Any) -> Any:
        while self._is_going():
            os.sched_yield()
        yield from real(self)

    monkeypatch.setattr(source_file_module.SourceFile, "chunks", endless)

    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("film.wav", sound(1.0))
            await stage.until(lambda: stage.folder.is_copying("film.wav"), work=False)
        assert not stage.tree()

    asyncio.run(play())
    assert [path for path in (tmp_path / ".batch/spool/tmp").iterdir()] == []


# -- content that nobody wants any more


def test_a_job_whose_file_changed_before_it_ran_is_cancelled(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            for number in range(4):
                stage.drop("a.wav", sound(0.1 + number / 10))
                await stage.until(lambda number=number: len(stage.store.jobs()) == number + 1, work=False)
            (stage.inbox / "a.wav").unlink()
            await stage.until(lambda: len(stage.store.jobs(state=State.CANCELLED)) == 3, work=False)
            await stage.until(stage.has("a.wav.json"))
            assert [job.task for job in stage.ran] == ["transcribe", "embed"], "accepted is accepted: the last one is done"
            await stage.until(lambda: count_files(stage.store).done == 1)
            assert not any(name.endswith(".error.json") for name in stage.tree())

    asyncio.run(play())


def test_a_job_whose_file_changed_goes_on_when_another_file_has_the_same_content(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("a.txt", "shared")
            stage.drop("b.txt", "shared")
            await stage.until(lambda: count_files(stage.store).waiting == 2, work=False)
            stage.drop("a.txt", "another text")
            await stage.until(lambda: len(stage.store.jobs()) == 2, work=False)
            await stage.until(stage.has("b.txt.json"))
            await stage.until(stage.says("a.txt.json", "another text"))
            assert stage.json("b.txt.json")["text"] == "shared" and len(stage.ran) == 2

    asyncio.run(play())


def test_content_that_was_dropped_and_comes_back_is_done_after_all(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            for number, text in enumerate(["first", "second", "first"]):
                stage.drop("a.txt", text)
                await stage.until(lambda number=number: len(stage.store.jobs()) == number + 1, work=False)
            await stage.until(lambda: len(stage.store.jobs(state=State.CANCELLED)) == 2, work=False)
            await stage.until(stage.says("a.txt.json", "first"))
            assert [job.state for job in stage.ran] == ["running"], "the two that were superseded never ran"

    asyncio.run(play())


# -- files that are replaced between the look and the open, and other swaps


def test_a_file_replaced_by_a_link_after_the_look_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    from batch.folder.inbox import intake as intake_module

    (tmp_path / "secret.txt").write_text("secret")
    real = intake_module.open_below

    def swap(root: Any, path: str, *flags: int) -> int:
        if path == "a.txt":
            (tmp_path / "home/inbox/a.txt").unlink(missing_ok=True)
            (tmp_path / "home/inbox/a.txt").symlink_to(tmp_path / "secret.txt")
        return real(root, path, *flags)

    monkeypatch.setattr(intake_module, "open_below", swap)

    async def play() -> None:
        async with staged(tmp_path / "home") as stage:
            stage.drop("a.txt", "harmless")
            await stage.until(stage.has("a.txt.error.json"))
            assert "leads out of the inbox" in stage.json("a.txt.error.json")["error"] and not stage.ran

    asyncio.run(play())


@pytest.mark.parametrize("wish", ["move", "delete"])
def test_a_file_dropped_in_the_very_moment_of_the_disposal_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: str
) -> None:
    real, swapped = os.rename, []

    def swap(source: Any, target: Any, **folders: Any) -> None:
        if source == "a.txt" and not swapped:
            swapped.append(1)
            fresh = tmp_path / "inbox/fresh.part"
            fresh.write_text("newer and longer")
            real(fresh, tmp_path / "inbox/a.txt")
        real(source, target, **folders)

    monkeypatch.setattr(disposal_module.os, "rename", swap)

    async def play() -> None:
        async with staged(tmp_path, source=wish) as stage:
            stage.drop("a.txt", "old")
            await stage.until(stage.says("a.txt.json", "newer and longer"))
            await stage.until(lambda: not (stage.inbox / "a.txt").exists())
            await stage.until(lambda: count_files(stage.store).done == 1)
            moved = [(path.name, path.read_text()) for path in (tmp_path / "done").glob("*")]
            assert moved == ([("a.txt", "newer and longer")] if wish == "move" else [])
            assert swapped

    asyncio.run(play())


def test_a_source_whose_bytes_changed_behind_an_old_time_is_not_deleted(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path, source="delete", scan=3600) as stage:
            path = stage.drop("a.txt", "first")
            status = path.stat()
            await stage.until(lambda: count_files(stage.store).waiting == 1, work=False)
            with path.open("r+") as file:
                file.write("FIRST")
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            await stage.until(stage.has("a.txt.json"))
            await stage.until(lambda: count_files(stage.store).waiting == 0)
            assert path.read_text() == "FIRST"

    asyncio.run(play())


@pytest.mark.parametrize("wish", ["move", "delete"])
def test_what_a_killed_service_had_half_disposed_of_is_taken_up(tmp_path: Path, wish: str) -> None:
    class Killed(BaseException):
        pass

    async def play(kill: bool) -> None:
        stage = Stage(tmp_path, source=wish)
        await stage.folder.start()
        if kill:
            stage.drop("a.txt", "one")
            await stage.until(lambda: list((tmp_path / "inbox").glob(".batch-*")) or list((tmp_path / "done").glob(".batch-*")))
        else:
            await stage.until(lambda: count_files(stage.store).done == 1)
        await stage.close()

    with pytest.MonkeyPatch.context() as patch:
        real = os.rename

        def rename(source: Any, target: Any, **folders: Any) -> None:
            real(source, target, **folders)
            if source == "a.txt":
                raise Killed

        patch.setattr(disposal_module.os, "rename", rename)
        asyncio.run(play(kill=True))
    asyncio.run(play(kill=False))
    assert files_below(tmp_path / "inbox") == []
    assert files_below(tmp_path / "done") == (["a.txt"] if wish == "move" else [])


def test_hard_links_to_one_file_are_each_disposed_of_and_the_file_outside_stays(tmp_path: Path) -> None:
    async def play() -> None:
        outside = tmp_path / "outside.txt"
        outside.write_text("one file, three names")
        async with staged(tmp_path / "home", source="delete") as stage:
            for name in ("a.txt", "b.txt"):
                os.link(outside, stage.inbox / name)
            await stage.until(stage.has("a.txt.json", "b.txt.json"))
            await stage.until(lambda: not list(stage.inbox.iterdir()))
            assert len(stage.ran) == 1
        assert outside.read_text() == "one file, three names"

    asyncio.run(play())


def test_a_name_of_255_bytes_is_moved_and_numbered_without_growing_longer(tmp_path: Path) -> None:
    async def play() -> None:
        name = "é" * 125 + "x.txt"
        assert len(os.fsencode(name)) == 255
        async with staged(tmp_path, source="move") as stage:
            for round in ("one", "two"):
                path = stage.inbox / name
                path.write_text(round)
                await stage.until(lambda path=path: not path.exists())
            assert sorted(p.read_text() for p in (tmp_path / "done").iterdir()) == ["one", "two"]

    asyncio.run(play())


def test_a_done_folder_on_another_disk_gets_a_copy_with_the_same_rights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.rename

    def far(source: Any, target: Any, **folders: Any) -> None:
        if folders.get("src_dir_fd") != folders.get("dst_dir_fd"):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        real(source, target, **folders)

    monkeypatch.setattr(disposal_module.os, "rename", far)

    async def play() -> None:
        async with staged(tmp_path, source="move") as stage:
            for text in ("one", "two"):
                stage.drop("x/a.txt", text).chmod(0o640)
                await stage.until(lambda: not (stage.inbox / "x/a.txt").exists())
            moved = {path.name: path for path in (tmp_path / "done/x").iterdir()}
            assert {name: path.read_text() for name, path in moved.items()} == {"a.txt": "one", "2-a.txt": "two"}
            assert stat.S_IMODE(moved["a.txt"].stat().st_mode) == 0o640

    asyncio.run(play())
