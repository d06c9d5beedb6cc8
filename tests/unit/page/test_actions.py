"""What forms do: retry, cancel, pause, redo, and files put into the inbox."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import quote

import pytest

from batch.errors import BadRequest
from batch.page.actions.upload import clean_folder, clean_name, place_file
from batch.payloads.embedding import EmbeddingPayload
from batch.queue.jobs import Draft, Kind, Origin, Priority, State
from batch.queue.selection.pauses import Pause
from folder_stage import picture
from page_stage import PageStage, page_staged

JSON = {"accept": "application/json"}


def queue(stage: PageStage, number: int) -> list[str]:
    """Jobs that wait."""
    drafts = [Draft(EmbeddingPayload(inputs=["x"]), Origin.CLI, Priority.BATCH) for _ in range(number)]
    stage.store.submit(*drafts)
    return [draft.id for draft in drafts]


def states(stage: PageStage, ids: list[str]) -> set[State]:
    return {job.state for id in ids if (job := stage.store.job(id)) is not None}


def test_chosen_jobs_are_cancelled_and_retried(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            ids = queue(stage, 3)
            answer = await stage.post("/page/jobs/cancel", {"ids": ids[:2]})
            assert (answer.status_code, answer.headers["location"]) == (303, "/page/jobs?notice=cancelled&n=2")
            assert states(stage, ids[:2]) == {State.CANCELLED} and states(stage, ids[2:]) == {State.QUEUED}
            assert "Jobs cancelled, or stopping at their next step: 2." in (await stage.get(answer.headers["location"])).text
            await stage.post("/page/jobs/retry", {"ids": ids[:1]})
            assert states(stage, ids[:1]) == {State.QUEUED}

    asyncio.run(main())


@pytest.mark.parametrize("id", ["\u4e16", "x\r\nset-cookie: a=b", "../../x"], ids=["no latin", "a header", "dots"])
def test_an_id_that_no_job_has_leads_back_to_no_other_address(tmp_path: Path, id: str) -> None:
    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            answer = await stage.post("/page/jobs/retry", {"ids": id, "back": "job"})
            place = f"/page/jobs/{quote(id, safe='')}?notice=retried&n=0"
            assert (answer.status_code, answer.headers["location"]) == (303, place)

    asyncio.run(main())


def test_an_action_on_a_filter_says_how_many_first_and_refuses_another_count(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            ids = queue(stage, 5)
            form = {"filter": "yes", "kind": "embedding"}
            first = await stage.post("/page/jobs/cancel", form)
            assert first.status_code == 200 and "Cancel 5 jobs?" in first.text
            assert states(stage, ids) == {State.QUEUED}
            ids += queue(stage, 1)
            late = await stage.post("/page/jobs/cancel", form | {"expected": "5"})
            assert late.status_code == 409 and states(stage, ids) == {State.QUEUED}
            done = await stage.post("/page/jobs/cancel", form | {"expected": "6"}, JSON)
            assert done.json()["n"] == 6 and states(stage, ids) == {State.CANCELLED}
            wrong = await stage.post("/page/jobs/retry", form | {"state": "running"})
            assert wrong.status_code == 400 and "cannot be retried" in wrong.text

    asyncio.run(main())


def test_what_takes_long_goes_on_in_the_background_and_nothing_else_begins_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch.page.actions.bulk.PATIENCE_S", 0.0)

    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            ids = queue(stage, 300)
            form = {"filter": "yes", "kind": "embedding", "expected": "300"}
            answer = await stage.post("/page/jobs/cancel", form, JSON)
            assert answer.json()["notice"] == "background"
            assert "In the background: cancel 300 jobs." in (await stage.get("/page/jobs")).text
            assert (await stage.post("/page/jobs/retry", {"ids": ids[0]})).status_code == 409
            await stage.until(lambda: stage.page.bulk_actions.running is None, work=False)
            assert states(stage, ids) == {State.CANCELLED}

    asyncio.run(main())


def test_pausing_holds_a_class_back_and_resuming_lets_it_go(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            await stage.post("/page/pause", {"kind": "vlm", "class": "inbox"})
            assert stage.store.paused() == {Pause(Kind.VLM, Priority.INBOX)}
            assert "Resume inbox" in (await stage.get("/page/status")).text
            await stage.post("/page/resume")
            assert stage.store.paused() == set()

    asyncio.run(main())


def test_a_file_is_done_again_with_another_prompt(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            id = await stage.deliver("red.jpg", picture())
            answer = await stage.post("/page/redo", {"files": id, "prompt": "Which colour?", "back": "item"})
            assert answer.headers["location"] == f"/page/item/{id}?notice=redo&n=1"
            asked = "select 1 from content c join file f on f.content = c.id where f.state='done' and c.parameters like ?"
            await stage.until(lambda: stage.store.read(asked, ("%Which colour?%",)))
            unknown = await stage.post("/page/redo", {"files": 999})
            assert unknown.status_code == 409
            bad = await stage.post("/page/redo", {"files": id, "language": "klingonish"})
            assert bad.status_code == 400

    asyncio.run(main())


def test_a_file_is_put_into_the_inbox_whole_and_a_taken_name_gets_a_number(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            for number in range(2):
                answer = await stage.client.post(
                    "/page/files", params={"name": "a.txt", "folder": "new/one"}, content=f"text {number}", headers={
                        "sec-fetch-site": "same-origin", "content-type": "application/octet-stream", **JSON,
                    },
                )  # fmt: skip
                assert answer.json()["notice"] == "uploaded", answer.text
            form = await stage.post("/page/files", {"folder": "new/one"}, files={"file": ("../../b.txt", b"third")})
            assert form.headers["location"] == "/page/files?notice=uploaded&n=1"
            folder = stage.inbox / "new/one"
            names = {path.name: path.read_text() for path in folder.iterdir() if not path.name.startswith(".")}
            assert names == {"a.txt": "text 0", "a (2).txt": "text 1", "b.txt": "third"}
            assert not list(folder.glob(".*"))

    asyncio.run(main())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(f"{'x' * 251}.txt", id="an ending"),
        pytest.param("x" * 255, id="no ending"),
        pytest.param(f"x.{'é' * 126}", id="a long ending"),
    ],
)
def test_a_taken_name_of_the_greatest_length_gets_a_number_too(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").write_text("text")
    (tmp_path / "inbox").mkdir()
    names = {place_file(str(tmp_path / "a"), str(tmp_path / "inbox"), "", clean_name(name)) for _ in range(3)}
    assert len(names) == 3 and {path.name for path in (tmp_path / "inbox").iterdir()} == names
    assert len([one for one in names if "(2)" in one]) == 1


def test_a_folder_that_is_a_link_leads_nowhere(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path / "home") as stage:
            (tmp_path / "elsewhere").mkdir()
            (stage.inbox / "out").symlink_to(tmp_path / "elsewhere")
            answer = await stage.client.post(
                "/page/files?name=a.txt&folder=out", content=b"x", headers={"sec-fetch-site": "same-origin"}
            )
            assert answer.status_code == 400 and not list((tmp_path / "elsewhere").iterdir())

    asyncio.run(main())


@pytest.mark.parametrize("name", ["", ".", "..", "a/..", ".hidden", "x.part", "~lock"])
def test_names_that_are_none_or_are_passed_over_are_refused(name: str) -> None:
    with pytest.raises(BadRequest):
        clean_name(name)


def test_a_name_is_one_component_of_a_path() -> None:
    assert clean_name("C:\\fakepath\\a.jpg") == "a.jpg" and clean_name("../../etc/passwd") == "passwd"
    assert clean_name("a\nb\u202e.txt") == "a_b_.txt"
    long = clean_name("é" * 400 + ".jpeg")
    assert len(long.encode()) <= 255 and long.endswith(".jpeg")


@pytest.mark.parametrize(
    "folder",
    ["..", "a/../b", ".git", "a\\b", "a\0b", pytest.param("/".join("x" * 21), id="deep"), pytest.param("y" * 300, id="long")],
)
def test_folders_that_lead_elsewhere_are_refused(folder: str) -> None:
    with pytest.raises(BadRequest):
        clean_folder(folder)


def test_the_playground_answers_without_scripts(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            sent = asyncio.create_task(
                stage.client.post(
                    "/page/try",
                    data={"trial": "embed", "prompt": "Hello"},
                    files={"file": ("", b"")},
                    headers={"sec-fetch-site": "same-origin"},
                )
            )
            await stage.until(sent.done)
            assert "One vector of 3 dimensions" in sent.result().text
            empty = await stage.post("/page/try", {"trial": "chat"}, files={"file": ("", b"")})
            assert empty.status_code == 400 and "There is no text to send." in empty.text

    asyncio.run(main())
