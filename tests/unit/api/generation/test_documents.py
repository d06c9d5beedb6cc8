"""Documents inside a chat: texts are used, a PDF becomes the pictures of its pages, drawn where it harms nothing."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pypdfium2
import pytest
from PIL import Image

from batch.media.document import pdf_pages
from batch.payloads.model_info import ChatModelInfo
from batch.queue.hub.model_state import ModelState
from batch.settings import LimitSettings
from chat_calls import post, says
from scripted_hub import ScriptedHub, answer


def pdf(pages: int = 2) -> bytes:
    document = pypdfium2.PdfDocument.new()
    for at in range(pages):
        document.new_page(200 + at, 300).close()
    file = io.BytesIO()
    document.save(file)
    document.close()
    return file.getvalue()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def anthropic_document(source: dict[str, Any], **more: Any) -> tuple[str, dict[str, Any]]:
    parts = [{"type": "document", "source": source, **more}, {"type": "text", "text": "Sum it up."}]
    return "/v1/messages", {"max_tokens": 5, "messages": [{"role": "user", "content": parts}]}


def chat_file(**file: Any) -> tuple[str, dict[str, Any]]:
    parts = [{"type": "file", "file": file}, {"type": "text", "text": "Sum it up."}]
    return "/v1/chat/completions", {"messages": [{"role": "user", "content": parts}]}


def response_file(**file: Any) -> tuple[str, dict[str, Any]]:
    parts = [{"type": "input_file", **file}, {"type": "input_text", "text": "Sum it up."}]
    return "/v1/responses", {"input": [{"role": "user", "content": parts}]}


def parts_of(call: tuple[str, dict[str, Any]], hub: ScriptedHub | None = None, **settings: Any) -> list[dict[str, Any]]:
    """The content that a request with one message becomes."""
    hub = hub or says(answer("ok"))
    reply = post(hub, *call, **settings)
    assert reply.status_code == 200, reply.text
    found: list[dict[str, Any]] = hub.requests[0]["messages"][-1]["content"]
    return found


TEXTS = [
    (anthropic_document({"type": "text", "media_type": "text/plain", "data": "All of it."}), "All of it."),
    (
        anthropic_document({"type": "text", "media_type": "text/plain", "data": "All."}, title="Notes", context="2024"),
        "Notes 2024\n\nAll.",
    ),
    (anthropic_document({"type": "content", "content": "All of it."}), "All of it."),
    (anthropic_document({"type": "content", "content": [{"type": "text", "text": "All of it."}]}), "All of it."),
    (chat_file(file_data="data:text/plain;base64," + encoded(b"All."), filename="a.txt"), "a.txt\n\nAll."),
    (chat_file(file_data="data:text/csv,a%2Cb"), "a,b"),
    (chat_file(file_data=encoded(b"# All"), filename="a.md"), "a.md\n\n# All"),
    (response_file(file_data="data:application/json;base64," + encoded(b"[1]")), "[1]"),
]


@pytest.mark.parametrize(("call", "text"), TEXTS)
def test_the_text_of_a_document_is_part_of_the_conversation(call: tuple[str, dict[str, Any]], text: str) -> None:
    assert parts_of(call) == [{"type": "text", "text": text}, {"type": "text", "text": "Sum it up."}]


PDFS = [
    anthropic_document({"type": "base64", "media_type": "application/pdf", "data": encoded(pdf())}),
    chat_file(file_data="data:application/pdf;base64," + encoded(pdf())),
    chat_file(file_data=encoded(pdf()), filename="a.pdf"),
    response_file(file_data=encoded(pdf())),
]


@pytest.mark.parametrize("call", PDFS)
def test_a_pdf_becomes_the_pictures_of_its_pages(call: tuple[str, dict[str, Any]]) -> None:
    hub = says(answer("ok"))
    pictures = [part for part in parts_of(call, hub) if part["type"] == "image"]
    assert [part["blob"] for part in pictures] == list(hub.blobs) and len(pictures) == 2
    assert hub.drafts[0].blobs == tuple(hub.blobs)
    sizes = [Image.open(io.BytesIO(data)).size for data in hub.blobs.values()]
    assert all(max(size) == 1600 for size in sizes) and sizes[0] != sizes[1]


def test_a_model_that_sees_nothing_reads_a_pdfs_text() -> None:
    hub = says(answer("ok"))
    hub.state = ModelState("ready", 1.0, ChatModelInfo(model="text", n_ctx=4096))
    parts = parts_of(PDFS[0], hub)
    assert [part["type"] for part in parts] == ["text"] * 3 and not hub.blobs


@pytest.mark.parametrize(
    ("call", "status", "words"),
    [
        (chat_file(file_data=encoded(b"%PDF-1.7 broken"), filename="a.pdf"), 400, "no PDF that can be read"),
        (chat_file(file_data="!!!", filename="a.pdf"), 400, "Invalid base64"),
        (chat_file(file_data="data:application/zip;base64,UEs=", filename="a.zip"), 400, "should be a PDF or a text"),
        (chat_file(file_data="data:text/plain;base64,/////w=="), 400, "UTF-8"),
        (chat_file(file_data="https://example.org/a.pdf"), 400, "not fetched"),
        (chat_file(filename="a.pdf"), 400, "file_data"),
        (response_file(filename="a.pdf"), 400, "file_data"),
        (anthropic_document({"type": "url", "url": "https://example.org/a.pdf"}), 400, "nothing is fetched"),
        (chat_file(file_data=encoded(pdf(9)), filename="a.pdf"), 413, "9 pages"),
    ],
)
def test_what_is_no_document_here_is_told_in_a_sentence(call: tuple[str, dict[str, Any]], status: int, words: str) -> None:
    hub = says(answer("ok"))
    reply = post(hub, *call, limits=LimitSettings(images=8))
    assert reply.status_code == status and words in reply.json()["error"]["message"] and not hub.drafts, reply.text


def test_a_document_that_takes_too_long_to_draw_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf_pages, "DEADLINE_S", 0.01)
    reply = post(says(answer("ok")), *PDFS[0])
    assert reply.status_code == 400 and "takes longer than" in reply.json()["error"]["message"]


def test_what_lies_in_the_current_folder_does_not_pass_for_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pypdfium2.py").write_text("raise SystemExit('not the library')\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    reply = post(says(answer("ok")), *PDFS[0])
    assert reply.status_code == 200, reply.text
