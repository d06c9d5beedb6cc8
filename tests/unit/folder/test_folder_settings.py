"""Per-folder settings: .batch.toml in an inbox folder."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from batch.folder.folder_settings import FolderSettingsReader
from batch.folder.ledger.file_counts import count_files
from batch.settings import FolderSettings
from folder_stage import picture, sound, staged
from payloads import as_dict

BASE = FolderSettings(caption_prompt="base", language="en")


def write(root: Path, folder: str, text: str) -> Path:
    path = root / folder / ".batch.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_nearest_file_wins_key_by_key(tmp_path: Path) -> None:
    write(tmp_path, "", 'language = "de"')
    write(tmp_path, "a", 'caption_prompt = "a"')
    write(tmp_path, "a/b/c", 'language = "zh"\nformats = ["json"]\nsource = "move"\ndone = "elsewhere"')
    settings = FolderSettingsReader(str(tmp_path), BASE)
    assert settings.for_folder("x").folder.caption_prompt == "base" and settings.for_folder("x").folder.language == "de"
    assert settings.for_folder("a/b").folder.caption_prompt == "a" and settings.for_folder("a/b").folder.language == "de"
    deep = settings.for_folder("a/b/c").folder
    done = settings.for_folder("a/b/c").done_folder
    assert (deep.caption_prompt, deep.language, deep.formats) == ("a", "zh", ("json",))
    assert deep.source == "move" and done == "elsewhere"
    assert all(change.problem is None for change in settings.take_changes())


def test_a_change_is_seen_and_so_is_its_end(tmp_path: Path) -> None:
    path = write(tmp_path, "a", 'language = "de"')
    settings = FolderSettingsReader(str(tmp_path), BASE)
    assert settings.for_folder("a/b").folder.language == "de"
    path.write_text('language = "french"')
    settings.refresh()
    assert settings.for_folder("a/b").folder.language == "french"
    path.unlink()
    settings.refresh()
    assert settings.for_folder("a/b").folder.language == "en"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('langauge = "de"', "there is no folder setting 'langauge'; there are source, "),
        ('source = "burn"', "source is not valid: "),
        ('language = "klingon"', "there is no language 'klingon'"),
        ("settle = -1", "settle is not valid: "),
        ("caption_max_tokens = 0", "caption_max_tokens is not valid: "),
        ("[folder]\nlanguage = 'de'", "there is no folder setting 'folder'"),
        ("source = ", "cannot be read as TOML: "),
        ('source = "\udcff"', "cannot be read as TOML: "),
        ("# " + "x" * 70_000, "is larger than"),
        ("caption_max_tokens = " + "9" * 10_000, "cannot be read as TOML: "),
        ("a = " + "[" * 5000 + "]" * 5000, "cannot be read as TOML: "),
        ("caption_temperature = nan", "caption_temperature is not valid: "),
        ("caption_prompt = 1979-05-27", "caption_prompt is not valid: "),
    ],
    ids=map(str, range(13)),
)
def test_a_wrong_file_is_one_sentence_and_takes_nothing_away(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".batch.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    settings = FolderSettingsReader(str(tmp_path), BASE.model_copy(update={"source": "delete"}))
    assert settings.for_folder("a").folder == BASE.model_copy(update={"source": "keep"})
    assert settings.for_folder("").folder == settings.for_folder("b").folder == BASE.model_copy(update={"source": "delete"})
    (problem,) = [change.problem for change in settings.take_changes() if change.problem]
    assert problem.message.startswith("a/.batch.toml") and words in problem.message
    assert "\n" not in problem.message and problem.message.endswith(".")


def test_a_fault_of_our_own_in_reading_a_settings_file_does_not_stop_the_inbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_: object) -> None:
        raise ZeroDivisionError

    (tmp_path / ".batch.toml").write_text('language = "de"')
    settings = FolderSettingsReader(str(tmp_path), BASE.model_copy(update={"source": "delete"}))
    monkeypatch.setattr(settings, "_merge", break_down)
    assert settings.for_folder("").folder.source == "keep", "until it can be read, nothing is taken away"
    (change,) = settings.take_changes()
    assert change.problem is not None and "cannot be understood (ZeroDivisionError)" in change.problem.message


def test_a_link_or_a_pipe_is_no_rules_file(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text('source = "delete"')
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / ".batch.toml").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "b" / ".batch.toml")
    settings = FolderSettingsReader(str(tmp_path), BASE)
    assert settings.for_folder("a").folder.source == "keep" and settings.for_folder("b").folder.source == "keep"
    assert len([change for change in settings.take_changes() if change.problem]) == 2


def test_a_wrong_file_gets_an_error_json_which_goes_when_it_is_mended(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("a/.batch.toml", 'langauge = "de"')
            stage.drop("a/x.txt", "goes on with the outer settings")
            await stage.until(stage.has("a/.batch.toml.error.json", "a/x.txt.json"))
            error = stage.json("a/.batch.toml.error.json")
            assert error["source"] == "a/.batch.toml" and "'langauge'" in error["error"]
            await stage.until(lambda: count_files(stage.store).failed == 1)
            stage.drop("a/.batch.toml", 'language = "de"')
            await stage.until(lambda: not (stage.outbox / "a/.batch.toml.error.json").exists())
            assert count_files(stage.store).failed == 0

    asyncio.run(play())


def test_a_wrong_file_that_is_taken_away_takes_its_error_with_it_even_over_a_restart(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("a/.batch.toml", "nonsense")
            await stage.until(stage.has("a/.batch.toml.error.json"))
        (stage.inbox / "a/.batch.toml").unlink()
        async with staged(tmp_path) as stage:
            await stage.until(lambda: not stage.tree())

    asyncio.run(play())


def test_folder_settings_reach_the_jobs_and_the_results(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("zh/.batch.toml", 'language = "zh"\ntranslate = true\nembed = false\nformats = ["vtt"]')
            stage.drop("zh/talk.wav", sound())
            stage.drop("zh/a.png", picture(format="PNG"))
            stage.drop("think/.batch.toml", "caption_thinking = true\ncaption_max_tokens = 99\ncaption_temperature = 0")
            stage.drop("think/a.png", picture(format="PNG"))
            await stage.until(stage.has("zh/talk.wav.json", "zh/a.png.json", "think/a.png.json"))
            assert stage.tree() == [
                "think/a.png.json",
                "think/a.png.txt",
                "zh/a.png.json",
                "zh/talk.wav.json",
                "zh/talk.wav.vtt",
            ]
            assert stage.json("zh/talk.wav.json")["embedding"] is None
            (talk,) = [job for job in stage.ran if job.task == "transcribe"]
            assert as_dict(talk.payload.options) == {"language": "zh", "translate": True}
            (thought,) = [job for job in stage.ran if job.source == "think/a.png" and job.task == "chat"]
            assert thought.payload.enable_thinking is True
            assert as_dict(thought.payload.generation) == {"max_tokens": 99, "temperature": 0.0}

    asyncio.run(play())
