"""Files inside a chat: a text becomes a part of the conversation, a PDF the pictures of its pages."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import unquote_to_bytes

from batch.api.generation.conversation import ContentPart, DocumentSource
from batch.api.json_body import quoted
from batch.errors import BadRequest
from batch.payloads.chat import TextPart

PDF = "application/pdf"
MAX_TITLE_CHARS = 512

_TEXT_TYPES = ("text/", "application/json", "application/xml", "application/yaml", "application/x-yaml")
_TEXT_NAMES = (".txt", ".md", ".csv", ".json", ".xml", ".html", ".yaml", ".yml", ".log", ".tex")


def text_document(text: str, title: str = "") -> TextPart:
    """A document's text as a part of a message, under its title."""
    title = " ".join(title[:MAX_TITLE_CHARS].split())
    return TextPart(text=f"{title}\n\n{text}" if title else text)


def read_document(data: str, path: str, *, media_type: str = "", filename: str = "") -> ContentPart:
    """A file that a request holds, as a data: URL or as base64.

    Raises BadRequest, naming the field, for what is neither a PDF nor a text.
    """
    if data[:5].lower() == "data:":
        head, comma, data = data.partition(",")
        if not comma:
            raise BadRequest(f"Field '{path}': should be a data: URL (data:application/pdf;base64,…)", param=path)
        media_type = head[5:].partition(";")[0].lower() or media_type
        if not head.lower().endswith(";base64"):
            return text_document(_decoded(unquote_to_bytes(data), path), filename)
    elif "://" in data[:16]:
        raise BadRequest(f"Field '{path}': addresses are not fetched; send the file itself as a data: URL", param=path)
    if media_type == PDF or (not media_type and (data.startswith("JVBERi") or filename.lower().endswith(".pdf"))):
        return DocumentSource(data, filename[:MAX_TITLE_CHARS])
    if media_type.startswith(_TEXT_TYPES) or (not media_type and filename.lower().endswith(_TEXT_NAMES)):
        try:
            return text_document(_decoded(base64.b64decode(data, validate=True), path), filename)
        except binascii.Error:
            raise BadRequest(f"Field '{path}': is not base64", param=path) from None
    kind = media_type or filename or "a file of no known type"
    raise BadRequest(f"Field '{path}': should be a PDF or a text, not {quoted(kind)}", param=path)


def _decoded(data: bytes, path: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadRequest(f"Field '{path}': should be text in UTF-8", param=path) from None
