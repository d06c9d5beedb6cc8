"""The search index made anew from the outbox: the same as it was, whatever happens meanwhile."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch.folder.reindex import rebuild as rebuild_module
from batch.folder.reindex.index_check import check_index
from batch.folder.reindex.ledger_rebuild import rebuild_ledger
from batch.folder.reindex.outbox_walk import result_paths
from batch.folder.reindex.rebuild import Rebuild
from batch.queue.store import Store
from batch.search.index.reader import IndexReader
from batch.search.index.shadow_index import ShadowIndex
from batch.search.request import SearchRequest
from batch.search.searcher import Searcher
from folder_stage import Stage, picture, sound, staged

MODEL = "vectors-1"
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("every_database")]
TABLES = ("entry", "entry_source", "passage", "passage_fts", "vector")


def index_of(store: Store) -> dict[str, Any]:
    """All that the index holds, without the numbers of its rows."""
    rows = store.read(
        "select s.path, e.content, e.sha256, e.kind, e.language, e.model, p.n, p.text, p.char_start, p.start, p.end, p.times, "
        "f.t, v.model, v.v from entry_source s join entry e on e.id = s.entry join passage p on p.entry = e.id "
        "join passage_fts f on f.rowid = p.id left join vector v on v.passage = p.id order by s.path, p.n"
    )
    return {f"{os.fsdecode(row[0])} {row[6]}": tuple(row) for row in rows}


def empty(store: Store) -> None:
    with store.transaction() as transaction:
        for table in TABLES:
            transaction.execute(f"delete from {table}")


def rebuild(stage: Stage, **more: Any) -> Any:
    return Rebuild(stage.store, os.fspath(stage.outbox), **{"loaded_model": MODEL, **more}).run()


async def filled(stage: Stage) -> dict[str, Any]:
    """An inbox of every kind, with its results; returns what the index holds."""
    stage.drop("trip/a.jpg", picture("red"))
    stage.drop("trip/copy.jpg", picture("red"))
    stage.drop("b.jpg", picture("blue"))
    stage.drop("talk.wav", sound())
    stage.drop("notes/long.txt", "今天天气很好。 The bridge is closed. " * 100)
    stage.drop("notes.txt", "Tomatoes grow in the garden.")
    stage.drop("empty.xyz", b"\0\1\2")
    names = ("trip/a.jpg", "trip/copy.jpg", "b.jpg", "talk.wav", "notes/long.txt", "notes.txt")
    await stage.until(stage.has(*(f"{name}.json" for name in names), "empty.xyz.error.json"))
    index = index_of(stage.store)
    assert {key.rpartition(" ")[0] for key in index} == set(names) and all(row[-1] for row in index.values())
    assert len([key for key in index if key.startswith("notes/long.txt")]) > 2
    return index


@pytest.mark.sqlite
async def test_a_rebuilt_index_is_the_one_that_was_there(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        before = await filled(stage)
        summary = rebuild(stage)
        assert (summary.files, summary.left_out, summary.without_vectors, summary.went_on) == (6, 0, 0, False)
        assert index_of(stage.store) == before
        empty(stage.store)
        rebuild(stage)
        assert index_of(stage.store) == before
        tables = {
            row[0] for row in stage.store.read("select name from sqlite_master where name like '\\_reindex%' escape '\\'")
        }
        assert tables == set()


async def test_searches_go_on_over_a_rebuild_and_find_the_same(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await filled(stage)
        reader, searcher = IndexReader(stage.store), Searcher()
        like, words = SearchRequest.of(like="notes.txt", min_similarity=0.0), SearchRequest.of(query="天气", mode="text")

        def found() -> list[Any]:
            return [{hit.source for hit in searcher.search(reader, request, None).data} for request in (like, words)]

        before = found()
        assert before[0] and before[1] == {"notes/long.txt"}
        seen: list[Any] = []

        def look(files: int) -> None:
            seen.append(found())
            assert searcher.search(reader, words, None).degraded == "reindexing"

        rebuild(stage, report=look)
        assert seen and seen == [before] * len(seen) and found() == before
        assert searcher.search(reader, words, None).degraded is None


async def test_what_changes_during_a_rebuild_is_in_the_new_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuild_module, "MAX_FILES_AT_ONCE", 1)
    async with staged(tmp_path) as stage:
        await filled(stage)
        steps: list[Callable[[], None]] = []

        def change(files: int) -> None:
            if steps:
                steps.pop(0)()

        # By hand what the folder does: a content that is new, one that goes, one that is done again, a file that moves to
        # another content.
        def statements(*lines: str) -> None:
            paths = {name: f"{name}.{ending}".encode() for name, ending in (("new", "txt"), ("talk", "wav"), ("b", "jpg"))}
            with stage.store.transaction() as transaction:
                for line in lines:
                    transaction.execute(line, {**paths, "notes": b"notes.txt"})

        notes_entry = "(select entry from entry_source where path=:notes)"
        steps = [
            lambda: statements(
                "insert into entry (content, sha256, kind, created) values ('new', 'x', 'text', 5)",
                "insert into entry_source select :new, id from entry where content='new'",
                "insert into passage (entry, n, text, char_start) select id, 0, 'a new text', 0 from entry where content='new'",
                "insert into passage_fts (rowid, t) select max(id), 'a new text' from passage",
            ),
            lambda: statements(
                "delete from entry_source where path=:talk",
                f"update passage set text='done again' where entry={notes_entry}",
                "update entry_source set entry=entry where path=:notes",
            ),
            lambda: statements(f"update entry_source set entry={notes_entry} where path=:b"),
        ]
        rebuild(stage, report=change)
        assert steps == []
        texts = {key.rpartition(" ")[0]: row[7] for key, row in index_of(stage.store).items()}
        assert texts["new.txt"] == "a new text" and "talk.wav" not in texts
        assert texts["notes.txt"] == texts["b.jpg"] == "done again"
        held = "select count(*) from entry where id not in (select entry from entry_source)"
        assert stage.store.read(held)[0][0] == 0


async def test_a_rebuild_that_was_broken_off_leaves_the_old_index_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild_module, "MAX_FILES_AT_ONCE", 1)
    async with staged(tmp_path) as stage:
        before = await filled(stage)
        for broken_at in (1, 2, 3):

            def break_off(files: int, broken_at: int = broken_at) -> None:
                if files == broken_at:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                rebuild(stage, report=break_off)
            assert index_of(stage.store) == before
            if broken_at == 2:  # another version of batch does not go on with what this one began
                ShadowIndex(stage.store).begin("another")
        summary = rebuild(stage)
        assert summary.went_on and summary.files == 3
        assert index_of(stage.store) == before


@pytest.mark.sqlite
async def test_every_rebuild_makes_the_indexes_anew(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await filled(stage)

        def indexes() -> list[str]:
            rows = stage.store.read("select tbl_name from sqlite_master where type='index' and sql is not null order by 1")
            return [row[0] for row in rows]

        before = indexes()
        for _ in range(3):
            rebuild(stage)
        assert indexes() == before and "vector" in before
        triggers = {row[0] for row in stage.store.read("select name from sqlite_master where type='trigger'")}
        assert "vector_delete" in triggers and not any("reindex" in name for name in triggers)


async def test_after_a_rebuild_results_go_into_the_index_as_before(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await filled(stage)
        rebuild(stage)
        stage.drop("later.txt", "A walrus plays the trumpet.")
        await stage.until(stage.has("later.txt.json"))
        hits = Searcher().search(IndexReader(stage.store), SearchRequest.of(query="walrus", mode="text"), None)
        assert [hit.source for hit in hits.data] == ["later.txt"]
        assert check_index(stage.store, os.fspath(stage.outbox), MODEL).is_whole


async def test_what_is_no_result_is_named_and_left_out(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        before = await filled(stage)
        (stage.outbox / "broken.json").write_text("{")
        (stage.outbox / "foreign.json").write_text('{"a": 1}')
        (stage.outbox / "future.json").write_text(json.dumps(stage.json("notes.txt.json") | {"version": 2}))
        (stage.outbox / "link.json").symlink_to(stage.outbox / "notes.txt.json")
        (stage.outbox / "folder.json").mkdir()
        (stage.outbox / "linked").symlink_to(stage.outbox / "trip")
        summary = rebuild(stage)
        assert summary.left_out == 3 and len(summary.problems) == 3
        assert all(name in " ".join(summary.problems) for name in ("broken.json", "foreign.json", "future.json"))
        assert index_of(stage.store) == before


async def test_the_check_names_what_differs(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await filled(stage)
        outbox = os.fspath(stage.outbox)
        assert check_index(stage.store, outbox, MODEL) == check_index(stage.store, outbox, "")
        await stage.folder.stop()  # it would write what is missing in the outbox again
        (stage.outbox / "b.jpg.json").unlink()
        with stage.store.transaction() as transaction:
            transaction.execute("delete from entry_source where path=?", (b"talk.wav",))
        outcome = check_index(stage.store, outbox, "another")
        assert outcome.left_over_files == ["b.jpg"] and outcome.missing_files == ["talk.wav"] and not outcome.is_whole
        assert outcome.other_model == 4 and outcome.files == 5
        rebuild(stage)
        assert check_index(stage.store, outbox, MODEL).is_whole


def test_a_walk_goes_on_behind_any_of_its_files(tmp_path: Path) -> None:
    names = ["a/b/c.json", "a/b.json", "a/c/d.json", "a.json", "b/x.json", "z.json", "é/o.json", "a-b.json"]
    for name in [*names, "a/x.error.json", "a/y.txt", ".hidden/x.json"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    walked = list(result_paths(os.fspath(tmp_path)))
    assert sorted(walked) == sorted(names)
    for place, name in enumerate(walked):
        assert list(result_paths(os.fspath(tmp_path), name)) == walked[place + 1 :]
        (tmp_path / name).unlink()
        assert list(result_paths(os.fspath(tmp_path), name)) == walked[place + 1 :]
        (tmp_path / name).write_text("{}")


async def test_a_file_that_is_dropped_again_as_it_was_is_still_found(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        before = await filled(stage)
        delivered = "select accepted_at from file where path=? and state in ('done','linked')"
        for name in (b"notes.txt", b"talk.wav"):
            earlier = stage.store.read(delivered, (name,))
            stage.drop(name.decode(), (stage.inbox / name.decode()).read_bytes())
            await stage.until(
                lambda name=name, earlier=earlier: stage.store.read(delivered, (name,)) not in ([], earlier)  # type: ignore[misc]
            )
        assert index_of(stage.store) == before
        stage.drop("notes.txt", "Other words.")
        await stage.until(stage.says("notes.txt.json", "Other words."))
        assert {row[7] for key, row in index_of(stage.store).items() if key.startswith("notes.txt ")} == {"Other words."}


async def test_a_result_without_a_path_or_with_vectors_that_are_none_breaks_nothing(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        stage.drop("notes.txt", "Tomatoes grow in the garden.")
        await stage.until(stage.has("notes.txt.json"))
        result = json.loads((stage.outbox / "notes.txt.json").read_text())
        (stage.outbox / "bad.json").write_text(json.dumps(result | {"source": "a\0b"}))
        result["embedding"]["vectors"] = [[] for _ in result["embedding"]["vectors"]]
        (stage.outbox / "notes.txt.json").write_text(json.dumps(result))
        empty(stage.store)
        summary = rebuild(stage)
        assert (summary.files, summary.left_out, summary.without_vectors) == (1, 1, 1)
        assert check_index(stage.store, os.fspath(stage.outbox), MODEL).unreadable == 1


async def test_a_ledger_is_made_anew_where_a_folder_has_a_files_name_by_now(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        stage.drop("notes", "Tomatoes grow in the garden.")
        await stage.until(stage.has("notes.json"))
        with stage.store.transaction() as transaction:
            transaction.execute("delete from file")
        (stage.inbox / "notes").unlink()
        (stage.inbox / "notes").mkdir()
        assert rebuild_ledger(stage.store, stage.settings) == 1
        assert stage.store.read("select gone from file where path=?", (b"notes",)) == [(1,)]
