"""Which files of the inbox are passed over."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from batch.errors import SettingsProblem
from batch.folder.file_names import is_ignored
from batch.folder.inbox.ignore import IgnoreRules
from batch.settings import Settings
from folder_stage import Stage, staged


@pytest.mark.parametrize(
    "path",
    [
        "a.jpg.filepart", "movie.mkv.!qB", "x.!ut", "a.aria2", "a.opdownload", "IMG_1.XMP", "IMG_1.AAE", "GOPR1.THM", "a.lnk",
        "@eaDir/a.jpg", "sub/@EADIR/a.jpg", "#recycle/a.jpg", "__MACOSX/a.jpg", "$RECYCLE.BIN/a.jpg", "lost+found/a",
        ".hidden/a.jpg", "~tmp/a.jpg", ".batch-7.part", "Thumbs.db",
    ],
)  # fmt: skip
def test_what_nobody_dropped_is_passed_over_without_any_setting(path: str) -> None:
    assert IgnoreRules().is_file_ignored(path)


@pytest.mark.parametrize("name", ["a.jpg", "part.txt", "README", "xmp.txt", "my recycle/a.jpg", "tmp/a.jpg"])
def test_everything_else_is_taken(name: str) -> None:
    assert not IgnoreRules().is_file_ignored(name) and not is_ignored(name.rpartition("/")[2])


def test_patterns_mean_what_they_mean_in_a_gitignore() -> None:
    rules = IgnoreRules().with_layer("", ("*.tmp.jpg", "raw/", "!raw/keep/", "/top.txt", "a/**/z.txt", "\\!odd.txt"))
    ignored = ["x.tmp.jpg", "deep/x.tmp.jpg", "raw/a.jpg", "x/raw/a.jpg", "top.txt", "a/b/c/z.txt", "a/z.txt", "!odd.txt"]
    taken = ["x.jpg", "raw/keep/a.jpg", "sub/top.txt", "raw", "odd.txt"]
    assert [path for path in ignored if not rules.is_file_ignored(path)] == []
    assert [path for path in taken if rules.is_file_ignored(path)] == []


def test_the_settings_nearest_to_a_file_decide() -> None:
    rules = IgnoreRules().with_layer("", ("*.jpg", "!*.xmp")).with_layer("trip", ("!keep.jpg", "*.xmp"))
    assert rules.is_file_ignored("a.jpg") and rules.is_file_ignored("trip/a.jpg")
    assert not rules.is_file_ignored("trip/keep.jpg") and rules.is_file_ignored("keep.jpg")
    assert not rules.is_file_ignored("a.xmp"), "a pattern takes in what would be passed over by itself"
    assert rules.is_file_ignored("trip/a.xmp")


def test_hidden_names_are_never_taken_whatever_patterns_say() -> None:
    rules = IgnoreRules().with_layer("", ("!.*", "!~*", "!.batch/"))
    assert rules.is_file_ignored(".secret.txt") and rules.is_file_ignored("~a.txt") and rules.is_file_ignored(".batch/a.txt")
    assert not rules.is_folder_entered(".batch")


def test_patterns_of_batch_toml_and_of_folders_reach_the_inbox(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path, ignore=("*.bak", "raw/")) as stage:
            stage.drop("trip/.batch.toml", 'ignore = ["draft-*", "!*.bak"]')
            for name in ("a.bak", "raw/b.txt", "trip/draft-1.txt", "trip/c.txt.bak", "trip/d.txt", "#recycle/e.txt"):
                stage.drop(name, name)
            stage.drop("last.txt", "to see that all have been looked at")
            await stage.until(stage.has("last.txt.json", "trip/d.txt.json"))
            await stage.folder.scan()
            await stage.until(stage.has("trip/c.txt.bak.error.json"))  # taken, and of no kind that is known
            assert stage.tree() == ["last.txt.json", "trip/c.txt.bak.error.json", "trip/d.txt.json"]
            (stage.inbox / "trip/.batch.toml").unlink()
            await stage.until(stage.has("trip/draft-1.txt.json"))

    asyncio.run(play())


def test_a_folder_that_is_passed_over_is_not_walked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from batch.folder.inbox import walk as walk_module

    seen = []
    real = walk_module.open_folder_below
    monkeypatch.setattr(walk_module, "open_folder_below", lambda root, path: seen.append(path) or real(root, path))

    async def play() -> None:
        stage = Stage(tmp_path, ignore=("raw/",))
        for name in ("raw", "@eaDir", "trip"):
            (stage.inbox / name / "deeper").mkdir(parents=True)
        await stage.folder.start()
        await stage.folder.scan()
        await stage.close()

    asyncio.run(play())
    assert set(seen) == {"", "trip", "trip/deeper"}


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("!", "is none"),
        ("[z-a]", "is none"),
        ("*a*a*a*", "more than 2 stars"),
        ("**/a/**/b/**/c", "more than 2 stars"),
        ("x" * 201, "more than 200 characters"),
    ],
)
def test_a_pattern_that_is_none_or_could_take_minutes_is_refused_in_a_sentence(
    tmp_path: Path, pattern: str, words: str
) -> None:
    (tmp_path / "batch.toml").write_text(f"[folder]\nignore = ['{pattern}']")
    with pytest.raises(SettingsProblem) as refused:
        Settings.load(tmp_path)
    assert words in refused.value.message and "\n" not in refused.value.message

    async def play() -> None:
        async with staged(tmp_path / "home") as stage:
            stage.drop("x/.batch.toml", f"ignore = ['{pattern}']")
            await stage.until(stage.has("x/.batch.toml.error.json"))

    asyncio.run(play())


def test_the_slowest_pattern_that_is_taken_is_fast_on_the_worst_name() -> None:
    rules = IgnoreRules().with_layer("", tuple(f"**/*a*b{n}/**/*a*c{n}" for n in range(100)))
    started = time.process_time()
    rules.is_file_ignored("/".join(["a" * 250] * 15))
    assert time.process_time() - started < 15
