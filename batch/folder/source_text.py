"""The text of a text file or a document, and how it was got out of the file."""

from __future__ import annotations

from batch.folder.ledger.rows import SourceReading
from batch.folder.pipeline import PAGE_GAP
from batch.media.document.document_process import docx_text, pdf_page_texts
from batch.media.html_text import visible_text
from batch.media.kind import is_pdf
from batch.media.text import charset_of_html, read_encoded
from batch.settings import LimitSettings


def text_of_file(data: bytes, path: str, name: str) -> tuple[str, SourceReading]:
    """The text of a text file, of HTML the visible one. Raises UnsupportedMedia for what is no text."""
    is_html = path.lower().endswith((".html", ".htm"))
    decoded = read_encoded(data, name, charset_of_html(data) if is_html else None)
    reading = SourceReading(
        encoding=decoded.encoding, is_encoding_guessed=decoded.is_guessed, format="html" if is_html else None
    )
    return visible_text(decoded.text) if is_html else decoded.text, reading


def text_of_document(descriptor: int, head: bytes, name: str, limits: LimitSettings) -> tuple[str, SourceReading]:
    """The text of a PDF or Word document, given as the descriptor of a regular file and its first bytes.

    The text is "" for a PDF whose pages are pictures; its reading then says how many they are. Raises BadRequest, TooLarge.
    """
    if not is_pdf(head):
        return docx_text(descriptor, name, max_bytes=limits.text_bytes), SourceReading(format="docx")
    texts = pdf_page_texts(descriptor, name, max_pages=limits.document_pages, max_bytes=limits.text_bytes)
    pages = [text.strip() for text in texts]
    mute = sum(not page for page in pages)
    if mute == len(pages):
        return "", SourceReading(format="pdf", pages=len(pages))
    starts, at = [], 0
    for page in pages:
        starts.append(at)
        at += len(page) + len(PAGE_GAP)
    note = f"{mute} of {len(pages)} pages hold no text." if mute else None
    return PAGE_GAP.join(pages), SourceReading(format="pdf", pages=len(pages), page_starts=starts, note=note)
