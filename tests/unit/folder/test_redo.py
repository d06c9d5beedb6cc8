"""Files that are done again, with another prompt or language, and their old results meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from batch.folder.ledger.file_counts import FileCounts, count_files
from batch.folder.ledger.ledger import Ledger
from batch.folder.ledger.rows import RedoRequest
from batch.payloads.speech import TranscriptionPayload
from folder_stage import Stage, answer, caption, picture, sound, staged

pytestmark = pytest.mark.usefixtures("every_database")


async def redo(stage: Stage, *paths: str, **changes: str) -> None:
    assert Ledger(stage.store).request_redo(paths, RedoRequest(**changes)) == list(paths)
    await stage.folder.scan()


def saying(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("folder_stage.answer", lambda job, spool: caption(text) if job.task == "chat" else answer(job, spool))


def test_redo_with_a_new_prompt_replaces_the_old_result_once_the_new_one_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            saying(monkeypatch, "a circle")
            stage.drop("trip/a.png", picture(format="PNG"))
            await stage.until(lambda: count_files(stage.store).done == 1)
            saying(monkeypatch, "red")
            await redo(stage, "trip/a.png", prompt="What colour?")
            await stage.until(lambda: count_files(stage.store).waiting == 1, work=False)
            assert stage.json("trip/a.png.json")["text"] == "a circle", "it stays until there is a new one"
            await stage.until(stage.says("trip/a.png.json", "red"))
            new = stage.json("trip/a.png.json")
            assert new["parameters"]["prompt"] == "What colour?" and (stage.outbox / "trip/a.png.txt").read_text() == "red\n"
            await stage.until(lambda: count_files(stage.store) == FileCounts(done=1))
            assert not await stage.folder.scan(), "it is done again once"

    asyncio.run(play())


def test_redo_without_changes_does_the_work_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            for name in ("a.png", "twin.png"):
                stage.drop(name, picture(format="PNG"))
            await stage.until(lambda: count_files(stage.store).waiting == 0 and len(stage.tree()) == 4)
            before = len(stage.ran)
            saying(monkeypatch, "better")
            await redo(stage, "a.png")
            await stage.until(stage.says("a.png.json", "better"))
            assert len(stage.ran) == before + 2 and stage.json("twin.png.json")["text"] != "better"

    asyncio.run(play())


def test_redo_of_sound_takes_another_language(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path, embed=False) as stage:
            stage.drop("a.wav", sound())
            await stage.until(lambda: count_files(stage.store).done == 1)
            await redo(stage, "a.wav", language="zh")
            await stage.until(lambda: len(stage.ran) == 2)
            payload: Any = stage.ran[1].payload
            assert isinstance(payload, TranscriptionPayload) and payload.options.language == "zh"

    asyncio.run(play())


def test_a_redo_that_fails_leaves_the_old_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            saying(monkeypatch, "a circle")
            stage.drop("a.png", picture(format="PNG"))
            await stage.until(lambda: count_files(stage.store).done == 1)
            saying(monkeypatch, "")  # no caption
            await redo(stage, "a.png", prompt="?")
            await stage.until(stage.has("a.png.error.json"))
            assert stage.json("a.png.json")["text"] == "a circle"
            saying(monkeypatch, "red")
            await stage.until(lambda: count_files(stage.store).failed == 1)
            await redo(stage, "a.png", prompt="What colour?")
            await stage.until(stage.says("a.png.json", "red"))
            assert stage.tree() == ["a.png.json", "a.png.txt"]

    asyncio.run(play())


def test_a_redo_is_remembered_over_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("a.png", picture(format="PNG"))
            await stage.until(lambda: count_files(stage.store).done == 1)
        stage = Stage(tmp_path)
        Ledger(stage.store).request_redo(["a.png"], RedoRequest(prompt="What colour?"))
        await stage.hub.close()
        stage.store.close()
        async with staged(tmp_path) as stage:
            await stage.until(lambda: count_files(stage.store).done == 1 and stage.ran)
            assert stage.json("a.png.json")["parameters"]["prompt"] == "What colour?"

    asyncio.run(play())


def test_only_files_with_an_outcome_that_lie_in_the_inbox_are_done_again(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("gone.txt", "gone")
            await stage.until(lambda: count_files(stage.store).done == 1)
            (stage.inbox / "gone.txt").unlink()
            await stage.until(lambda: stage.store.read("select gone from file") == [(1,)])
            stage.drop("waiting.txt", "waiting")
            await stage.until(lambda: count_files(stage.store).waiting == 1, work=False)
            assert Ledger(stage.store).request_redo(["gone.txt", "waiting.txt", "no such"], RedoRequest()) == []

    asyncio.run(play())
