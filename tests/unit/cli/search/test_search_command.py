"""`batch search` with the service down: the text list alone, and what it says of that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch.cli.exit_status import ExitStatus
from batch.media.kind import MediaKind
from run_batch import RunBatch
from search_stage import SearchStage


@pytest.fixture
def stage(home: Path) -> Iterator[SearchStage]:
    """An index in the home of the commands."""
    stage = SearchStage(home / ".batch" / "batch.db")
    stage.put("notes/budget.txt", "The budget for the new bridge\nwas cut in half.", created=1_700_000_000.0)
    stage.put("notes/garden.txt", "Tomatoes grow in the garden.", created=1_600_000_000.0)
    stage.put("东京.txt", "今天天气很好，我们去公园散步。")
    stage.put(
        "talks/a.m4a",
        "Good morning. The bridge is closed today.",
        kind=MediaKind.AUDIO,
        language="en",
        moments=[(0, 0.0, 1.5), (14, 61.2, 66.8)],
    )
    yield stage
    stage.store.close()


def test_words_are_found_without_a_service_and_it_says_what_is_missing(stage: SearchStage, run_batch: RunBatch) -> None:
    ended = run_batch("search", "bridge")
    assert ended.status == ExitStatus.DONE
    assert "only words are looked for" in ended.err and "batch serve" in ended.err and len(ended.err.splitlines()) == 1
    assert "notes/budget.txt" in ended.out and "talks/a.m4a  1:01 to 1:06  (audio, en)" in ended.out
    assert "    The budget for the new bridge was cut in half." in ended.out.splitlines()


def test_text_mode_has_all_that_it_asks_for_and_says_nothing(stage: SearchStage, run_batch: RunBatch) -> None:
    assert run_batch("search", "--mode", "text", "公园").err == ""


def test_nothing_to_find_is_exit_status_1(stage: SearchStage, run_batch: RunBatch) -> None:
    ended = run_batch("search", "--mode", "text", "zeppelin")
    assert (ended.status, ended.out, ended.err) == (1, "Nothing was found.\n", "")
    assert json.loads(run_batch("search", "--json", "zeppelin").out)["data"] == []


@pytest.mark.parametrize(
    "options, sources",
    [
        (["--kind", "audio"], {"talks/a.m4a"}),
        (["--kind", "audio", "--kind", "text"], {"talks/a.m4a", "notes/budget.txt"}),
        (["--folder", "notes"], {"notes/budget.txt"}),
        (["--language", "en"], {"talks/a.m4a"}),
        (["--since", "2023-01-01"], {"notes/budget.txt"}),
        (["--until", "2001-01-01"], {"talks/a.m4a"}),
        (["--limit", "2"], {"talks/a.m4a", "notes/budget.txt"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_filters_say_where_to_look(stage: SearchStage, run_batch: RunBatch, options: list[str], sources: set[str]) -> None:
    body = json.loads(run_batch("search", "--json", "bridge", *options).out)
    assert {hit["source"] for hit in body["data"]} == sources
    assert body["object"] == "list" and body["degraded"] == "embedding_unavailable"


def test_words_that_must_not_be_there_stand_behind_two_dashes(stage: SearchStage, run_batch: RunBatch) -> None:
    assert run_batch("search", "-0", "--", "bridge", "-budget").out == "talks/a.m4a\0"
    assert run_batch("search", "-0", "bridge -budget").out == "talks/a.m4a\0"
    assert run_batch("search", "-0", '"new bridge"').out == "notes/budget.txt\0"


def test_a_file_is_a_query_by_any_of_its_paths_and_needs_no_service(
    home: Path, stage: SearchStage, run_batch: RunBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "inbox" / "notes").mkdir()
    (home / "inbox" / "notes" / "garden.txt").write_text("Tomatoes grow in the garden.")
    assert run_batch("search", "--like", "notes/garden.txt").err == ""
    monkeypatch.chdir(home / "inbox" / "notes")
    assert run_batch("search", "--like", "garden.txt").err == ""
    missing = run_batch("search", "--like", "nobody.txt")
    assert missing.status == ExitStatus.FAILED and "nobody.txt" in missing.err and len(missing.err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    ["", "!!!", "x --like y", "x --kind song", "x --mode fuzzy", "x --limit 101", "x --folder ../up", "x --since yesterday"],
    ids=lambda arguments: arguments or "nothing",
)
def test_a_wrong_search_is_exit_status_2(stage: SearchStage, run_batch: RunBatch, arguments: str) -> None:
    ended = run_batch("search", *arguments.split())
    assert ended.status == ExitStatus.USAGE and ended.out == "" and "Traceback" not in ended.err


def test_meanings_alone_need_the_service(stage: SearchStage, run_batch: RunBatch) -> None:
    ended = run_batch("search", "--mode", "vector", "bridge")
    assert ended.status == ExitStatus.SERVICE_DOWN and "start `batch serve`" in ended.err and ended.out == ""


def test_a_name_that_is_no_utf8_is_told_by_its_bytes(stage: SearchStage, run_batch: RunBatch) -> None:
    from batch.search.documents import IndexedContent
    from batch.search.index.prepared_content import PreparedContent

    path = b"caf\xe9.txt"
    document = IndexedContent(
        content="c", sha256="0" * 64, kind=MediaKind.TEXT, language=None, model=None, created=1.0, text="An unusual zebra."
    )
    with stage.store.transaction() as transaction:
        stage.writer.put(transaction, PreparedContent(document), [path])
    hit = stage.search("zebra", mode="text").data[0]
    assert hit.source == "caf\\xe9.txt" and hit.source_path() == path
    assert "caf\\xe9.txt  (text)" in run_batch("search", "zebra").out
    assert "source_bytes" in json.loads(run_batch("search", "--json", "zebra").out)["data"][0]


def test_what_was_heard_steers_no_terminal(stage: SearchStage, run_batch: RunBatch) -> None:
    stage.put("\x1b[2Jevil.txt", "hostile \x1b[31m\u202ewords here")
    out = run_batch("search", "hostile").out
    assert "\x1b" not in out and "\u202e" not in out and "evil.txt" in out
