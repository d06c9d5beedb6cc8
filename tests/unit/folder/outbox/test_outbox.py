"""What stands in the outbox, when, and what happens when it cannot be written."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import batch
from batch.folder.file_names import ERROR_ENDING, RESULT_ENDINGS, result_stem
from batch.folder.ledger.file_counts import FileCounts, count_files
from batch.folder.ledger.ledger import Ledger
from batch.folder.next_step import NextSteps
from batch.folder.outbox.outbox import Outbox
from batch.folder.outbox.result_document import json_text
from batch.queue.frames import End
from batch.queue.jobs import Kind, State
from folder_stage import Stage, picture, sound, staged

SCHEMA = json.loads((Path(batch.__file__).parent / "data" / "outbox.schema.json").read_text())


def check(schema: dict[str, Any], value: Any, at: str = "$") -> None:
    """As much of JSON Schema as the outbox's schema uses."""
    types: dict[str, Any] = {
        "object": dict,
        "array": list,
        "string": str,
        "null": type(None),
        "boolean": bool,
        "integer": int,
        "number": (int, float),
    }
    assert set(schema) <= {
        "$schema",
        "$id",
        "$defs",
        "title",
        "description",
        "type",
        "const",
        "enum",
        "required",
        "properties",
        "additionalProperties",
        "items",
        "pattern",
        "minimum",
        "format",
        "oneOf",
        "$ref",
    }, at
    if "$ref" in schema:
        return check(SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], value, at)
    if "oneOf" in schema:
        fitting = 0
        for one in schema["oneOf"]:
            with contextlib.suppress(AssertionError):
                check(one, value, at)
                fitting += 1
        assert fitting == 1, f"{at}: {fitting} of oneOf fit"
        return None
    if "const" in schema:
        assert value == schema["const"], at
    if "enum" in schema:
        assert value in schema["enum"], at
    if "type" in schema:
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        assert any(isinstance(value, types[name]) for name in names), f"{at}: {value!r} is no {names}"
    if isinstance(value, dict):
        assert set(schema.get("required", ())) <= set(value), f"{at}: {set(schema.get('required', ())) - set(value)}"
        for key, part in value.items():
            inner = schema.get("properties", {}).get(key, schema.get("additionalProperties", True))
            assert inner is not False, f"{at}: {key} is not described"
            if isinstance(inner, dict):
                check(inner, part, f"{at}.{key}")
    if isinstance(value, list) and "items" in schema:
        for number, part in enumerate(value):
            check(schema["items"], part, f"{at}[{number}]")
    return None


def test_every_json_fits_the_documented_schema(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("a.jpg", picture())
            stage.drop("b.wav", sound())
            stage.drop("c.txt", "text " * 900)
            stage.drop("d.xyz", "?")
            stage.drop("e.jpg", picture() + b"BREAK")
            with open(os.path.join(os.fsencode(stage.inbox), b"caf\xe9.md"), "wb") as file:
                file.write(b"x")
            await stage.until(lambda: len([n for n in stage.tree() if n.endswith(".json")]) == 6)
            for entry in os.scandir(stage.outbox):
                if entry.name.endswith(".json"):
                    document = json.loads(Path(entry.path).read_bytes())
                    check(SCHEMA, document)
                    broken = {**document, "version": 2}
                    with pytest.raises(AssertionError):
                        check(SCHEMA, broken)

    asyncio.run(play())


def test_json_appears_last_and_nothing_is_ever_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = os.replace

    def replace(source: Any, target: Any, **folders: Any) -> None:
        if str(source).endswith(".tmp"):
            seen.append(target)
            status = os.stat(source, dir_fd=folders["src_dir_fd"])
            assert source.startswith(".batch-") and status.st_size > 0
        real(source, target, **folders)

    monkeypatch.setattr(os, "replace", replace)

    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("a.wav", sound())
            await stage.until(stage.has("a.wav.json"))
            await stage.until(lambda: count_files(stage.store).done == 1)
            assert seen == ["a.wav.txt", "a.wav.srt", "a.wav.json"]

    asyncio.run(play())


def settle(stage: Stage, drops: dict[str, bytes]) -> Ledger:
    """Files accepted and their jobs done, and the service killed before a result was written."""

    async def play() -> None:
        for name, data in drops.items():
            stage.drop(name, data)
        await stage.folder.start()
        await stage.until(lambda: count_files(stage.store).waiting == len(drops), work=False)
        stage.deaf = True
        await stage.folder.stop()
        await stage.hub.close()

    asyncio.run(play())
    stage.store.close()
    stage.reopen_store()
    while stage.work():
        pass
    return Ledger(stage.store)


def test_at_start_what_was_done_but_not_written_is_written(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    settle(stage, {"a.jpg": picture(), "b.txt": b"text", "c.jpg": picture() + b"BREAK"})
    assert not stage.tree() and len(stage.ran) == 3
    stage.store.close()

    async def play() -> None:
        async with staged(tmp_path) as again:
            await again.until(again.has("a.jpg.json", "b.txt.json", "c.jpg.error.json"))
            assert [job.task for job in again.ran] == ["embed"]  # the caption's: nothing is done twice
            await again.until(lambda: count_files(again.store) == FileCounts(waiting=0, done=2, failed=1, linked=0))

    asyncio.run(play())


def test_killed_between_writing_and_noting_it_nothing_is_written_twice(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    stage = Stage(tmp_path)
    ledger = settle(stage, {"a.txt": b"text"})
    outbox = Outbox(stage.settings, ledger, stage.spool)
    NextSteps(ledger, stage.spool, lambda kind: "m").follow_lost_jobs()
    with pytest.MonkeyPatch.context() as patch:

        def killed(*_: object) -> None:
            raise Killed

        patch.setattr(Ledger, "record_deliveries", killed)
        with pytest.raises(Killed):
            outbox.deliver()
    before = os.stat(stage.outbox / "a.txt.json")
    assert outbox.deliver() and not ledger.deliveries()
    after = os.stat(stage.outbox / "a.txt.json")
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert count_files(stage.store).done == 1 and stage.tree() == ["a.txt.json"]
    stage.store.close()


@pytest.mark.parametrize("at", range(1, 12))
def test_killed_at_any_step_of_writing_the_next_start_mends_it(tmp_path: Path, at: int) -> None:
    class Killed(BaseException):
        pass

    stage = Stage(tmp_path)
    ledger = settle(stage, {"a.wav": sound(), "b.txt": b"text"})
    steps = NextSteps(ledger, stage.spool, lambda kind: "m")
    for _ in range(2):
        steps.follow_lost_jobs()
        stage.work()
    steps.follow_lost_jobs()
    outbox = Outbox(stage.settings, ledger, stage.spool)
    calls = [0]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("replace", "fsync", "unlink"):
            real = getattr(os, name)

            def counted(*args: Any, real: Any = real, **options: Any) -> Any:
                calls[0] += 1
                if calls[0] == at * 2:
                    raise Killed
                return real(*args, **options)

            patch.setattr(os, name, counted)
        with contextlib.suppress(Killed):
            outbox.deliver()
    for name in ("a.wav", "b.txt"):
        if (stage.outbox / f"{name}.json").exists():
            stage.json(f"{name}.json")
            assert name == "b.txt" or stage.has("a.wav.txt", "a.wav.srt")()
    assert Outbox(stage.settings, ledger, stage.spool).deliver()
    assert stage.tree() == ["a.wav.json", "a.wav.srt", "a.wav.txt", "b.txt.json"]
    stage.store.close()


def test_lost_results_of_files_still_in_the_inbox_are_written_again_at_start(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("a.txt", "one")
            stage.drop("b.txt", "two")
            await stage.until(lambda: count_files(stage.store).done == 2)
        (stage.outbox / "a.txt.json").unlink()
        kept = os.stat(stage.outbox / "b.txt.json")
        async with staged(tmp_path) as stage:
            await stage.until(stage.has("a.txt.json"))
            assert not stage.ran
            assert os.stat(stage.outbox / "b.txt.json").st_ino == kept.st_ino

    asyncio.run(play())


def test_a_read_only_outbox_is_told_once_and_results_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, locked, refused = os.open, [True], [0]

    def refuse(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if locked[0] and ".batch-" in str(path) and flags & os.O_CREAT:
            refused[0] += 1
            raise OSError(30, "Read-only file system")
        return real(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", refuse)

    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("a.txt", "one")
            stage.drop("b.xyz", "two")
            await stage.until(lambda: count_files(stage.store).waiting == 2 and stage.ran and refused[0])
            before = refused[0]
            await stage.until(lambda: refused[0] >= before + 6)  # tried again, several times
            assert stage.tree() == [] and count_files(stage.store).waiting == 2 and len(stage.ran) == 1
            told = [r for r in caplog.records if r.levelno >= logging.ERROR]
            assert len(told) == 1 and "Read-only file system" in told[0].getMessage()
            locked[0] = False
            await stage.until(stage.has("a.txt.json", "b.xyz.error.json"))

    asyncio.run(play())


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_outbox_whose_disk_fails_is_told_once_and_nothing_half_written_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    real, broken, refused = getattr(os, call), [True], [0]

    def refuse(what: Any, *args: Any, **folders: Any) -> None:
        where = os.readlink(f"/proc/self/fd/{what}") if isinstance(what, int) else str(what)
        if broken[0] and ".batch-" in where:
            refused[0] += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(what, *args, **folders)

    monkeypatch.setattr(os, call, refuse)

    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("a.wav", sound())
            stage.drop("b.txt", "two")
            await stage.until(lambda: count_files(stage.store).waiting == 2 and len(stage.ran) == 3 and refused[0])
            before = refused[0]
            await stage.until(lambda: refused[0] >= before + 6)
            # Temporary files come and go at each try; nothing that a program would take for a result is there.
            assert [name for name in stage.tree() if not name.startswith(".batch-")] == []
            assert count_files(stage.store).waiting == 2 and len(stage.ran) == 3
            told = [r for r in caplog.records if r.levelno >= logging.ERROR]
            assert len(told) == 1 and os.strerror(errno.EIO) in told[0].getMessage()
            broken[0] = False
            await stage.until(lambda: stage.tree() == ["a.wav.json", "a.wav.srt", "a.wav.txt", "b.txt.json"])

    asyncio.run(play())


def test_one_file_that_cannot_be_written_does_not_keep_others(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            (stage.outbox / "a.txt.json").mkdir()  # somebody's folder stands in its place
            (stage.outbox / "a.txt.json" / "x").touch()
            (stage.outbox / "sub").write_text("and a file in a folder's")
            stage.drop("a.txt", "one")
            stage.drop("sub/c.txt", "three")
            await stage.until(lambda: count_files(stage.store).waiting == 2)
            stage.drop("b.txt", "two")
            await stage.until(stage.has("b.txt.json"))
            (stage.outbox / "sub").unlink()
            await stage.until(stage.has("sub/c.txt.json"))

    asyncio.run(play())


@pytest.mark.parametrize("wish", ["keep", "move", "delete"])
def test_the_source_goes_where_the_settings_say_once_its_results_are_there(tmp_path: Path, wish: str) -> None:
    async def play() -> None:
        async with staged(tmp_path, source=wish) as stage:
            for round in ("one", "two"):
                stage.drop("deep/a.txt", round)
                stage.drop("bad.xyz", round)
                await stage.until(stage.has("bad.xyz.error.json"))
                await stage.until(stage.says("deep/a.txt.json", round))
                await stage.until(lambda: count_files(stage.store).waiting == 0)
                assert (stage.inbox / "deep/a.txt").exists() == (wish == "keep")
            assert (stage.inbox / "bad.xyz").exists()  # of what failed nothing is lost
            moved = sorted(p.name for p in (tmp_path / "done").rglob("*") if p.is_file())
            assert moved == (["2-a.txt", "a.txt"] if wish == "move" else [])
            if wish == "move":
                assert (tmp_path / "done/deep/a.txt").read_text() == "one"

    asyncio.run(play())


def test_a_source_that_changed_meanwhile_is_not_taken_away(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path, source="delete", settle=0.3) as stage:
            stage.drop("a.txt", "one")
            await stage.until(lambda: count_files(stage.store).waiting == 1, work=False)
            stage.drop("a.txt", "a newer text")  # still settling when the first one is done
            await stage.until(stage.says("a.txt.json", "a newer text"))
            await stage.until(lambda: not (stage.inbox / "a.txt").exists())

    asyncio.run(play())


def test_a_done_folder_inside_the_inbox_is_not_taken_in_again(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path, source="move", done="inbox/done") as stage:
            stage.drop("a.txt", "one")
            await stage.until(lambda: (stage.inbox / "done/a.txt").exists())
            stage.drop("b.txt", "two")
            await stage.until(lambda: (stage.inbox / "done/b.txt").exists())
            await stage.until(lambda: count_files(stage.store).done == 2)
            assert stage.tree() == ["a.txt.json", "b.txt.json"]

    asyncio.run(play())


def test_results_whose_jobs_are_gone_are_made_anew(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("a.txt", "one")
            await stage.until(lambda: count_files(stage.store).done == 1)
            with stage.store.transaction() as transaction:
                transaction.execute("delete from job")
            stage.drop("b.txt", "one")
            await stage.until(stage.has("b.txt.json"))
            assert len(stage.ran) == 2

    asyncio.run(play())


def test_an_end_that_was_not_heard_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batch.folder.service.LOST_JOBS_INTERVAL_S", 0.2)

    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.deaf = True
            stage.drop("a.jpg", picture())
            await stage.until(stage.has("a.jpg.json"))

    asyncio.run(play())


def test_no_spool_file_is_left_behind(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("a.jpg", picture())
            stage.drop("a.wav", sound())
            await stage.until(lambda: count_files(stage.store).done == 2)
            stage.drop("b.jpg", picture())
            stage.drop("b.wav", sound())
            await stage.until(lambda: count_files(stage.store).linked == 2)
            assert set(stage.store.orphans(100)) == set(stage.spool.names())

    asyncio.run(play())


_NAMES = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=90)


@given(_NAMES, _NAMES, st.sampled_from(["", ".error", ".json", "x" * 200, "~0123456789ab"]))
def test_no_two_sources_share_a_result_file(one: str, two: str, ending: str) -> None:
    names = [name for name in [one, two, one + ending] if len(os.fsencode(name)) <= 255]
    results: dict[str, str] = {}
    for name in set(names):
        for suffix in (*RESULT_ENDINGS, ERROR_ENDING):
            result = result_stem(name) + suffix
            assert len(os.fsencode(result)) <= 255
            assert results.setdefault(result, name) == name


def test_names_stay_as_they_are_wherever_they_can() -> None:
    assert result_stem("trip/a.jpg") == "trip/a.jpg"
    assert result_stem("a.jpg.error") != "a.jpg.error"
    assert result_stem("a.json/b.txt").endswith("/b.txt") and not result_stem("a.json/b.txt").startswith("a.json/")
    long = "é" * 127
    assert len(os.fsencode(result_stem(long))) <= 244 and "\udcc3" not in result_stem(long)


def test_numbers_that_json_does_not_know_become_null() -> None:
    assert json_text({"a": [float("nan"), float("inf"), 1.5]}) == '{"a": [null, null, 1.5]}'


def test_jobs_of_other_doors_are_passed_over(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.hub.reports.receive(Kind.VLM, End(job="someone-elses", state=State.DONE))
            stage.drop("a.txt", "one")
            await stage.until(stage.has("a.txt.json"))

    asyncio.run(play())
