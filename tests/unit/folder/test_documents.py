"""Texts in every encoding, pages of HTML, PDF and Word documents in the inbox."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pypdfium2.raw as pdfium_c
import pytest

from batch.folder import service
from batch.folder.ledger.file_counts import count_files
from batch.folder.ledger.ledger import Ledger
from batch.folder.ledger.rows import StepOutcome
from batch.folder.next_step import NextSteps
from batch.media.document import document_process
from batch.payloads.chat import ChatPayload, TextPart
from batch.queue.jobs import State
from documents import docx, pdf_with_text, scanned_pdf
from folder_stage import Stage, answer, caption, staged

KOREAN = "안녕하세요, 반갑습니다. 오늘은 날씨가 매우 좋습니다. 함께 산책하러 갈까요?\n"
FRENCH = "Déjà vu à l'hôtel : un café crème, s'il vous plaît – « ça coûte 5 € ».\n"
CHINESE = "你好，世界！今天天气很好，我们去公园散步。"


@pytest.mark.parametrize(
    ("name", "data", "text", "encoding", "is_guessed"),
    [
        ("a.txt", KOREAN.encode("euc_kr"), KOREAN, "euc-kr", True),
        ("b.txt", FRENCH.encode("cp1252"), FRENCH, "cp1252", True),
        ("c.txt", "Größe, Maße, Übung, süß.\n".encode("latin-1"), "Größe, Maße, Übung, süß.\n", "iso-8859-1", True),
        ("d.txt", CHINESE.encode("utf-16-le"), CHINESE, "utf-16-le", True),
        ("e.txt", CHINESE.encode("utf-16"), CHINESE, "utf-16-le", False),
        ("f.md", CHINESE.encode(), CHINESE, "utf-8", False),
        ("g.csv", b"a,b\n1,2\n", "a,b\n1,2\n", "utf-8", False),
        ("h.json", b'{"a": 1}', '{"a": 1}', "utf-8", False),
        ("i.srt", b"1\n00:00:00,000 --> 00:00:01,000\nHi\n", "1\n00:00:00,000 --> 00:00:01,000\nHi\n", "utf-8", False),
        ("j.log", b"line one\nline two\n", "line one\nline two\n", "utf-8", False),
        ("README", b"no ending at all\n", "no ending at all\n", "utf-8", False),
    ],
)
def test_texts_are_read_in_their_true_encoding_and_the_json_names_it(
    tmp_path: Path, name: str, data: bytes, text: str, encoding: str, is_guessed: bool
) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop(name, data)
            await stage.until(stage.has(f"{name}.json"))
            document = stage.json(f"{name}.json")
            assert document["text"] == text and document["kind"] == "text"
            assert (document["encoding"], document["encoding_guessed"]) == (encoding, is_guessed)

    asyncio.run(play())


def test_an_html_page_is_its_visible_text_in_the_encoding_it_declares(tmp_path: Path) -> None:
    page = (
        "<!doctype html><html><head><meta charset='shift_jis'><title>題名</title><style>p{}</style></head>"
        "<body><script>var x = '<p>no</p>';</script><h1>見出し</h1><p>本文 &amp; more<br>次の行</p></body></html>"
    )

    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("page.html", page.encode("shift_jis"))
            await stage.until(stage.has("page.html.json"))
            document = stage.json("page.html.json")
            assert document["text"] == "題名\n見出し\n本文 & more\n次の行"
            assert document["format"] == "html" and document["encoding"] == "shift_jis" and not document["encoding_guessed"]
            assert (stage.outbox / "page.html.txt").read_text() == document["text"] + "\n"

    asyncio.run(play())


def test_a_pdf_with_text_is_embedded_as_it_is_and_tells_its_pages(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("a.pdf", pdf_with_text("First page.", "", "Third page."))
            await stage.until(stage.has("a.pdf.json"), 90)
            document = stage.json("a.pdf.json")
            assert document["text"] == "First page.\n\n\n\nThird page." and document["format"] == "pdf"
            assert [document["text"][page["start"] : page["end"]] for page in document["pages"]] == [
                "First page.",
                "",
                "Third page.",
            ]
            assert document["note"] == "1 of 3 pages hold no text." and len(stage.ran) == 1
            assert document["embedding"]["vectors"] and (stage.outbox / "a.pdf.txt").exists()

    asyncio.run(play())


def say_page_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[str] = []

    def numbered(job: Any, spool: Any) -> Any:
        if job.task != "chat":
            return answer(job, spool)
        pages.append(job.id)
        return caption("" if len(pages) == 2 else f"Text of page {len(pages)}.")

    monkeypatch.setattr("folder_stage.answer", numbered)


def test_a_scanned_pdf_is_read_page_by_page_by_the_vision_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say_page_numbers(monkeypatch)

    async def play() -> None:
        async with staged(tmp_path, page_prompt="Read it.") as stage:
            stage.drop("scan.pdf", scanned_pdf("red", "white", "blue"))
            await stage.until(stage.has("scan.pdf.json"), 90)
            document = stage.json("scan.pdf.json")
            assert list(document["jobs"]) == ["page 1", "page 2", "page 3", "embedding"]
            assert document["text"] == "Text of page 1.\n\n\n\nText of page 3."
            assert [document["text"][page["start"] : page["end"]] for page in document["pages"]] == [
                "Text of page 1.",
                "",
                "Text of page 3.",
            ]
            assert document["model"] == "eyes-1" and document["parameters"]["page_prompt"] == "Read it."
            payload = stage.ran[0].payload
            assert isinstance(payload, ChatPayload) and isinstance(payload.messages[0].content, list)
            assert payload.messages[0].content[1] == TextPart(text="Read it.")
            pictures = {job.payload.messages[0].content[0].blob for job in stage.ran if job.task == "chat"}  # type: ignore[union-attr,index]
            assert len(pictures) == 3, "each page is another picture"
            await stage.until(lambda: count_files(stage.store).done == 1)
            kept = {row[0] for row in stage.store.read("select sha256 from blob")}
            assert set(stage.spool.names()) == kept | set(stage.store.orphans(100)), "nothing of it is held for ever"
            assert document["sha256"] in stage.store.orphans(100)

    asyncio.run(play())


def test_a_scanned_pdf_goes_on_where_it_stood_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say_page_numbers(monkeypatch)

    async def play() -> None:
        stage = Stage(tmp_path)
        await stage.folder.start()
        stage.drop("scan.pdf", scanned_pdf("red", "white", "blue"))
        await stage.until(lambda: len(stage.store.jobs()) == 1, 90, work=False)
        stage.deaf = True
        stage.work(most=1)
        await stage.close()
        async with staged(tmp_path) as stage:
            await stage.until(stage.has("scan.pdf.json"), 90)
            assert len([job for job in stage.ran if job.task == "chat"]) == 2
            assert len(stage.store.jobs(state=State.DONE)) == 4

    asyncio.run(play())


def test_a_page_whose_job_ends_before_its_thread_is_through_does_not_hold_up_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say_page_numbers(monkeypatch)
    is_followed = threading.Event()
    follow_jobs, record_steps = NextSteps.follow_jobs, Ledger.record_steps

    def follow(self: NextSteps, jobs: list[str]) -> int:
        ready = follow_jobs(self, jobs)
        is_followed.set()
        return ready

    def record(self: Ledger, outcomes: list[StepOutcome]) -> int:
        is_followed.clear()
        ready = record_steps(self, outcomes)
        if threading.current_thread().name == "pages":
            assert is_followed.wait(30), "the page's job has ended, and that was heard"
        return ready

    monkeypatch.setattr(NextSteps, "follow_jobs", follow)
    monkeypatch.setattr(Ledger, "record_steps", record)
    monkeypatch.setattr(service, "LOST_JOBS_INTERVAL_S", 3600.0)

    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("scan.pdf", scanned_pdf("red", "white", "blue"))
            await stage.until(stage.has("scan.pdf.json"))

    asyncio.run(play())


def test_a_word_document_is_its_text(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("letter.docx", docx("Dear reader,", "all the best.", "再见"))
            await stage.until(stage.has("letter.docx.json"), 90)
            document = stage.json("letter.docx.json")
            assert document["text"].split() == ["Dear", "reader,", "all", "the", "best.", "再见"]
            assert document["format"] == "docx" and document["kind"] == "text"

    asyncio.run(play())


def locked_pdf() -> bytes:
    """Encrypted, as far as its trailer says."""
    data = pdf_with_text("secret")
    return data.replace(
        b"/Root 1 0 R >>",
        b"/Root 1 0 R /Encrypt << /Filter /Standard /V 1 /R 2 /O <" + b"00" * 32 + b"> /U <" + b"11" * 32 + b"> /P -4 >>"
        b" /ID [<00> <00>] >>",
    )


BILLION_LAUGHS = (
    '<!DOCTYPE x [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9))
    + ']><w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body><w:p><w:r>'
    "<w:t>&j;</w:t></w:r></w:p></w:body></w:document>"
)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("broken.pdf", b"%PDF-1.7 and then nothing", "cannot be read: it is no PDF"),
        ("locked.pdf", locked_pdf(), "locked with a password"),
        ("long.pdf", pdf_with_text(*["x"] * 6), "it has 6 pages; at most 5 are read (limits.document_pages)"),
        ("heavy.pdf", pdf_with_text("x" * 5000), "limits.document_bytes"),
        ("no.docx", b"PK\x03\x04 and then nothing", "cannot be read: it is damaged"),
        ("other.docx", docx().replace(b"word/document.xml", b"word/dokument.xml"), "it is no Word document"),
        ("laughs.docx", docx(**{"word/document.xml": BILLION_LAUGHS.encode()}), "cannot be read|holds more than"),
        ("bomb.docx", lambda: docx("x", **{"word/media/x": bytes(520 << 20)}), "unpacks to more"),
        ("text.pdf", b"just text under a wrong name", "kind that is not known"),
        ("a.docx", b"just text under a wrong name", "kind that is not known"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value and " " not in value else "",
)
def test_a_document_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, name: str, data: bytes | Callable[[], bytes], words: str
) -> None:
    async def play() -> None:
        limits = {"document_pages": 5, "document_bytes": 4096 if name == "heavy.pdf" else 4 << 20}
        async with staged(tmp_path, limits=limits) as stage:
            stage.drop(name, data() if callable(data) else data)
            stage.drop("other.txt", "goes on")
            await stage.until(stage.has(f"{name}.error.json", "other.txt.json"), 60)
            error = stage.json(f"{name}.error.json")["error"]
            assert any(word in error for word in words.split("|")) and error.startswith(name) and "\n" not in error, error

    asyncio.run(play())


def test_a_document_that_takes_for_ever_is_ended_and_holds_up_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "slow"
    (slow / "batch").mkdir(parents=True)
    monkeypatch.setattr(document_process, "DEADLINE_S", 2.0)
    monkeypatch.setattr(document_process.sys, "executable", "/bin/sleep")
    real = document_process.subprocess.Popen

    def sleep(command: list[str], **options: Any) -> Any:
        return real(["/bin/sleep", "60"], **options)

    monkeypatch.setattr(document_process.subprocess, "Popen", sleep)

    async def play() -> None:
        async with staged(tmp_path / "home") as stage:
            stage.drop("slow.pdf", pdf_with_text("x"))
            await stage.until(lambda: stage.folder.is_copying("slow.pdf"))
            stage.drop("note.txt", "goes on")
            await stage.until(stage.has("note.txt.json"))
            assert not stage.has("slow.pdf.error.json")()
            await stage.until(stage.has("slow.pdf.error.json"))
            assert "longer than 2 seconds" in json.loads((stage.outbox / "slow.pdf.error.json").read_text())["error"]

    asyncio.run(play())


def test_the_pdf_library_is_the_one_that_the_error_codes_are_of() -> None:
    assert pdfium_c.FPDF_ERR_PASSWORD == 4
