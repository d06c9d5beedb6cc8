"""Anthropic's messages and their content blocks as turns of a chat.

A block of a history never ends a session: what says nothing to the model is left out with a note.
"""

from __future__ import annotations

import json
from typing import Any

from batch.api.generation.conversation import (
    ContentPart,
    FileSource,
    ImageSource,
    Role,
    Turn,
    checked_id,
    checked_text,
    history_call,
    left_out,
)
from batch.api.generation.documents import PDF, read_document, text_document
from batch.api.json_body import Body, JsonObject
from batch.errors import BadRequest
from batch.payloads.chat import TextPart

Block = JsonObject
"""A content block as the client wrote it."""

_RESULT_SUFFIX = "_tool_result"


class AnthropicMessageBody(Body, frozen=True, kw_only=True):
    """One message."""

    role: Any = None
    content: Any = None


def message_turns(messages: list[AnthropicMessageBody], notes: list[str]) -> list[Turn]:
    """The turns of Anthropic's messages. Raises BadRequest naming the message.

    A turn's tool results become turns of their own, before its text.
    """
    turns: list[Turn] = []
    for at, message in enumerate(messages):
        path, role = f"messages[{at}]", message.role
        if role != "user" and role != "assistant" and role != "system":
            raise BadRequest(f"Field '{path}.role': should be user or assistant", param=f"{path}.role")
        if isinstance(message.content, str):
            turns.append(Turn(role, message.content))
        elif isinstance(message.content, list):
            turns += _TurnReader(role, notes).read(message.content, f"{path}.content")
        else:
            raise BadRequest(f"Field '{path}.content': should be a string or an array", param=f"{path}.content")
    return turns


class _TurnReader:
    """Reads the blocks of one message, which become one turn or more."""

    def __init__(self, role: Role, notes: list[str]) -> None:
        self._role, self._notes = role, notes
        self._turns: list[Turn] = []
        """Turns that come before the one under way: results, and an assistant's turns that ended with a call."""
        self._parts: list[ContentPart] = []
        self._current = Turn(role)

    def read(self, blocks: list[Any], path: str) -> list[Turn]:
        for at, block in enumerate(blocks):
            self._read_block(block if isinstance(block, dict) else {}, f"{path}[{at}]")
        self._end_turn(last=True)
        return self._turns

    def _read_block(self, block: Block, path: str) -> None:
        kind = block.get("type")
        match kind:
            case "thinking":
                thought = checked_text(block.get("thinking"), path, "thinking")
                self._current.reasoning_content = (self._current.reasoning_content or "") + thought
            case "redacted_thinking":
                pass
            case "tool_use" | "server_tool_use" | "mcp_tool_use":
                arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
                name = checked_id(block.get("name"), path, "name")
                self._current.tool_calls.append(history_call(checked_id(block.get("id"), path, "id"), name, arguments))
            case "tool_result":
                self._result(block, _result_content(block.get("content"), f"{path}.content", self._notes), path)
            case str() if kind.endswith(_RESULT_SUFFIX):
                # A provider's own tool: its result stands in the assistant's message, between its words.
                self._end_turn()
                self._result(block, _plain_json(block.get("content")), path)
            case _:
                self._parts += content_parts(block, path, self._notes)

    def _result(self, block: Block, content: str | list[ContentPart], path: str) -> None:
        call_id = checked_id(block.get("tool_use_id"), path, "tool_use_id")
        self._turns.append(Turn("tool", content, tool_call_id=call_id))

    def _end_turn(self, *, last: bool = False) -> None:
        """Put the turn under way behind the others, unless it is empty and others stand for the message."""
        turn, has_parts = self._current, bool(self._parts)
        if has_parts or turn != Turn(self._role) or (last and not self._turns):
            turn.content = self._parts or ("" if turn.tool_calls or turn.reasoning_content else [])
            self._turns.append(turn)
        self._current, self._parts = Turn(self._role), []


def content_parts(block: Block, path: str, notes: list[str]) -> list[ContentPart]:
    """What a block of content says. Raises BadRequest where a text, picture or document is not as it should be."""
    match block.get("type"):
        case "text":
            return [TextPart(text=checked_text(block.get("text"), path, "text"))]
        case "image":
            return [_image(block.get("source"), path)]
        case "document":
            return _document(block, path, notes)
        case "search_result":
            texts = [part["text"] for part in _blocks(block.get("content")) if isinstance(part.get("text"), str)]
            title = f"{block.get('title') or ''}\n{block.get('source') or ''}".strip()
            return [text_document("\n".join(texts), title)]
        case "compaction":
            content = block.get("content")
            return [TextPart(text=content)] if isinstance(content, str) else []
        case kind:
            if isinstance(text := block.get("text"), str):
                return [TextPart(text=text)]
            notes.append(left_out(kind))
            return []


def _image(source: Any, path: str) -> ImageSource | FileSource:
    fields: Block = source if isinstance(source, dict) else {}
    match fields.get("type"):
        case "base64":
            media_type = fields.get("media_type")
            data = checked_text(fields.get("data"), path, "source.data")
            return ImageSource(f"data:{media_type if isinstance(media_type, str) else 'image/jpeg'};base64,{data}")
        case "url":
            return ImageSource(checked_text(fields.get("url"), path, "source.url"))
        case "file":
            return FileSource(checked_id(fields.get("file_id"), path, "source.file_id"), f"{path}.source.file_id")
    raise BadRequest(f"Field '{path}': should be a text block or an image block with a base64 source", param=path)


def _document(block: Block, path: str, notes: list[str]) -> list[ContentPart]:
    source = block.get("source")
    fields: Block = source if isinstance(source, dict) else {}
    title = "\n".join(text for key in ("title", "context") if isinstance(text := block.get(key), str))
    match fields.get("type"):
        case "text":
            return [text_document(checked_text(fields.get("data"), path, "source.data"), title)]
        case "base64":
            media_type = fields.get("media_type")
            data = checked_text(fields.get("data"), path, "source.data")
            kind = media_type if isinstance(media_type, str) else PDF
            return [read_document(data, f"{path}.source.data", media_type=kind, filename=title)]
        case "file":
            return [FileSource(checked_id(fields.get("file_id"), path, "source.file_id"), f"{path}.source.file_id")]
        case "content":
            content = fields.get("content")
            blocks = [{"type": "text", "text": content}] if isinstance(content, str) else _blocks(content)
            parts: list[ContentPart] = [TextPart(text=title)] if title else []
            for at, inner in enumerate(blocks):
                parts += content_parts(inner, f"{path}.source.content[{at}]", notes)
            return parts
    raise BadRequest(
        f"Field '{path}.source': should hold the document itself, as base64 or text, or the id of a file; nothing is fetched",
        param=f"{path}.source",
    )


def _result_content(content: Any, path: str, notes: list[str]) -> str | list[ContentPart]:
    """What a tool_result says: text where that is all."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise BadRequest(f"Field '{path}': should be a string or an array", param=path)
    parts: list[ContentPart] = []
    for at, block in enumerate(content):
        parts += content_parts(block if isinstance(block, dict) else {}, f"{path}[{at}]", notes)
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    return "".join(texts) if len(texts) == len(parts) else parts


def _blocks(content: Any) -> list[Block]:
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def _plain_json(content: Any) -> str:
    """A provider's tool result as JSON text, without what only the provider can read."""
    if isinstance(content, list):
        content = [_without_encrypted(item) for item in content]
    return content if isinstance(content, str) else json.dumps(_without_encrypted(content), ensure_ascii=False)


def _without_encrypted(item: Any) -> Any:
    if not isinstance(item, dict):
        return item
    return {key: value for key, value in item.items() if not key.startswith("encrypted_")}
