"""Every page as a reader gets it: what stands there, what leads where, and what happens with a file of each kind."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from batch.errors import BadRequest
from folder_stage import picture, sound
from page_stage import page_staged

LISTS = ("/", "/page/search?q=red", "/page/files", "/page/jobs", "/page/batches", "/page/status", "/page/try")


def test_a_picture_is_seen_in_the_gallery_and_on_its_own_page_with_its_caption_as_the_alternative_text(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            id = await stage.deliver("a/red.jpg", picture("red", size=400))
            gallery = (await stage.get("/")).text
            assert re.search(
                rf'<a href="/page/item/{id}">\s*<img src="/page/thumb/{id}.webp" alt="picture [0-9a-f]{{6}}"', gallery
            )
            item = (await stage.get(f"/page/item/{id}")).text
            assert "a/red.jpg" in item and "Describe" in item and "eyes-1" in item and ">done</a>" in item
            thumb = await stage.get(f"/page/thumb/{id}.webp")
            assert thumb.headers["content-type"] == "image/webp" and thumb.content[8:12] == b"WEBP"
            assert (await stage.get(f"/page/thumb/{id}.webp", **{"if-none-match": thumb.headers["etag"]})).status_code == 304
            assert (await stage.get(f"/page/preview/{id}.webp")).status_code == 200
            original = await stage.get(f"/page/media/{id}")
            assert (
                original.headers["content-type"] == "image/jpeg"
                and original.content == (stage.inbox / "a/red.jpg").read_bytes()
            )

    asyncio.run(main())


def test_the_gallerys_picture_is_made_when_a_file_is_captioned(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            await stage.deliver("red.jpg", picture("red", size=400))
            await stage.until(lambda: list((stage.settings.state_dir / "previews").rglob("*-320.webp")))
            await stage.deliver("note.txt", "no picture")
            await stage.deliver("torn.jpg", picture("blue") + b"BREAK")
            assert len(list((stage.settings.state_dir / "previews").rglob("*.webp"))) == 1

    asyncio.run(main())


def test_a_recording_has_a_player_and_a_transcript_whose_links_lead_to_their_moments(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            id = await stage.deliver("talk.wav", sound(1.0))
            page = (await stage.get(f"/page/item/{id}?t=1.6")).text
            assert f'<audio id="player" controls preload="metadata" src="/page/media/{id}#t=1.6"' in page
            links = re.findall(r'<li><a href="([^"]+)"[^>]*?( aria-current="true")?><span class="time">([^<]+)', page)
            assert links == [
                (f"/page/item/{id}?t=0.0", "", "0:00"),
                (f"/page/item/{id}?t=1.5", ' aria-current="true"', "0:01"),
            ]
            assert '<ol class="segments" lang="en"' in page

    asyncio.run(main())


def test_media_come_in_ranges_and_under_a_type_that_their_bytes_have(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            id = await stage.deliver("talk.wav", sound(1.0))
            whole = (await stage.get(f"/page/media/{id}")).content
            part = await stage.get(f"/page/media/{id}", range="bytes=100-199")
            assert (part.status_code, part.content) == (206, whole[100:200])
            assert part.headers["content-range"] == f"bytes 100-199/{len(whole)}"
            assert part.headers["content-type"] == "audio/wav" and "sandbox" in part.headers["content-security-policy"]
            assert (await stage.get(f"/page/media/{id}", range=f"bytes={len(whole)}-")).status_code == 416
            for tag, status in ((part.headers["etag"], 206), ('"another"', 200), ("Thu, 26 Nov 2026 19:00:00 GMT", 200)):
                answer = await stage.get(f"/page/media/{id}", range="bytes=1-", **{"if-range": tag})
                assert answer.status_code == status, "a part of one file is never joined to a part of another"

    asyncio.run(main())


def test_what_is_no_picture_sound_or_text_is_a_download_and_markup_is_plain_text(tmp_path: Path) -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'

    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            failed = await stage.deliver("drawing.svg", svg)
            answer = await stage.get(f"/page/media/{failed}")
            assert answer.headers["content-type"] == "application/octet-stream"
            assert answer.headers["content-disposition"].startswith("attachment")
            text = await stage.deliver("site.html", "<html><script>alert(1)</script>words</html>")
            answer = await stage.get(f"/page/media/{text}")
            assert answer.headers["content-type"] == "text/plain; charset=utf-8"
            assert answer.headers["x-content-type-options"] == "nosniff"

    asyncio.run(main())


def test_a_file_that_changed_or_went_is_never_shown_as_what_was_worked_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path, scan=60) as stage:
            id = await stage.deliver("note.txt", "first words")
            (stage.inbox / "note.txt").unlink()
            (stage.inbox / "note.txt").symlink_to("/etc/passwd")
            answer = await stage.get(f"/page/media/{id}")
            assert answer.status_code == 404 and "root:" not in answer.text

    asyncio.run(main())


def test_search_leads_to_the_moment_and_marks_the_words(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            stage.hub.models.update("embedding", status="failed", error="no model here")
            id = await stage.deliver("talk.wav", sound(1.0))
            page = (await stage.get("/page/search?q=general")).text
            assert f'href="/page/item/{id}?t=' in page and "<mark>General</mark>" in page
            assert "only files with these very words" in page
            nothing = await stage.get("/page/search?q=%22%21")
            assert nothing.status_code == 400 and "problem" in nothing.text

    asyncio.run(main())


def test_files_are_listed_with_their_outcome_and_filters_narrow_the_list(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            await stage.deliver("good/red.jpg", picture())
            await stage.deliver("bad/torn.jpg", picture("blue") + b"BREAK")
            every = (await stage.get("/page/files")).text
            assert "good/red.jpg" in every and "broken on purpose" in every
            failed = (await stage.get("/page/files?state=failed")).text
            assert "torn.jpg" in failed and "good/red.jpg" not in failed
            for narrow in ("folder=bad", "error=ON+purpose", "state=failed&kind=image"):
                page = (await stage.get(f"/page/files?{narrow}")).text
                assert "torn.jpg" in page and "good/red.jpg" not in page, narrow
            assert "No file matches" in (await stage.get("/page/files?folder=nowhere")).text

    asyncio.run(main())


def test_a_list_of_what_is_passed_over_that_takes_too_long_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batch.page.views.files.IGNORED_SCAN_S", 0.0)

    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            (stage.inbox / "Thumbs.db").write_text("x")
            page = (await stage.get("/page/files?state=ignored")).text
            assert "Thumbs.db" not in page and "too large to be looked through" in page

    asyncio.run(main())


def test_files_that_are_passed_over_are_listed_and_no_folder_outside_is_looked_into(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path / "home") as stage:
            (tmp_path / "home/secret.tmp").write_text("x")
            (stage.inbox / "a").mkdir()
            (stage.inbox / "a/half.part").write_text("x")
            (stage.inbox / "Thumbs.db").write_text("x")
            page = (await stage.get("/page/files?state=ignored")).text
            assert "<li>a/half.part</li>" in page and "<li>Thumbs.db</li>" in page
            assert "Thumbs.db" not in (await stage.get("/page/files?state=ignored&folder=a")).text
            outside = await stage.get("/page/files?state=ignored&folder=..")
            assert outside.status_code == 400 and "secret" not in outside.text

    asyncio.run(main())


def test_a_job_has_a_page_with_what_was_sent_and_what_came_out(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            await stage.deliver("red.jpg", picture())
            listed = (await stage.get("/page/jobs?kind=vlm")).text
            (job,) = re.findall(r'href="/page/jobs/([0-9a-f]{24})"', listed)
            page = (await stage.get(f"/page/jobs/{job}")).text
            assert "Describe this image" in page and "picture " in page and "1 picture" in page
            assert (await stage.get("/page/jobs/unknown")).status_code == 404

    asyncio.run(main())


def test_the_status_page_has_the_numbers_as_text_as_plots_and_as_tables(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            await stage.deliver("red.jpg", picture())
            page = (await stage.get("/page/status")).text
            assert 'data-live="models.vlm.done_today">1<' in page
            assert re.search(
                r'<svg viewBox="0 0 600 160" role="img" aria-label="Jobs done a day\. captions and chat: at most 1', page
            )
            assert page.count("<rect class=") >= 2 and "The numbers of “Jobs done a day”" in page
            as_json = await stage.get("/page/status", accept="application/json")
            assert as_json.json()["models"]["vlm"]["done_today"] == 1

    asyncio.run(main())


def test_an_empty_home_has_every_page_with_one_heading_landmarks_and_a_skip_link(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            stage.hub.models.update("embedding", status="failed", error="no model here")
            for path in LISTS:
                page = (await stage.get(path)).text
                assert page.count("<h1") == 1 and '<a class="skip" href="#main">' in page, path
                assert '<html lang="en">' in page and "<main id=" in page and 'aria-label="Pages"' in page
                assert "style=" not in page and "<style" not in page and not re.search(r"\son\w+=", page), path
                assert re.findall(r"<script[^>]*>([^<]*)</script>", page) in ([""], ["", ""]), path

    asyncio.run(main())


def test_clients_that_read_json_alone_are_answered_as_before_at_the_root(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            answer = await stage.get("/", accept="application/json")
            assert (answer.status_code, answer.json()["error"]["message"]) == (404, "File Not Found")
            assert (await stage.get("/page/nothing")).status_code == 404
            assert (await stage.get("/v1/nothing")).json()["error"]["message"] == "File Not Found"

    asyncio.run(main())


@pytest.mark.parametrize(
    "address",
    [
        "/?before=x", "/?kind=nothing", "/page/item/-1", "/page/item/99999999999999999999", "/page/files?state=gone",
        "/page/jobs?state=lost", "/page/item/1?t=never",
        pytest.param(f"/page/files?folder={'x' * 2001}", id="long"),
        "/page/jobs?error=%00",
        "/page/batches?after=unknown",
    ],
)  # fmt: skip
def test_bad_input_is_a_clear_400_page(tmp_path: Path, address: str) -> None:
    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            answer = await stage.get(address)
            assert answer.status_code == BadRequest.status and '<p class="problem">' in answer.text

    asyncio.run(main())
