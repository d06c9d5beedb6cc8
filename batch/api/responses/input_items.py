"""The input of a Responses request as turns of a chat; what belongs to one assistant turn is put together again."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from batch.api.generation.conversation import (
    ContentPart,
    FileSource,
    ImageSource,
    SpooledSource,
    Turn,
    checked_id,
    checked_role,
    checked_text,
    history_call,
    left_out,
)
from batch.api.generation.documents import read_document
from batch.api.json_body import Body, JsonObject
from batch.conversations.item_store import SPOOLED
from batch.errors import BadRequest
from batch.payloads.chat import TextPart, ToolCall


class ItemBody(Body, frozen=True, kw_only=True):
    """An item of the input: each type uses some of the fields."""

    type: Any = None
    role: Any = None
    content: Any = None
    call_id: Any = None
    name: Any = None
    arguments: Any = None
    input: Any = None
    output: Any = None
    summary: Any = None


def input_turns(value: str | list[JsonObject], notes: list[str]) -> list[Turn]:
    """The turns of an input. Raises BadRequest naming the item.

    Items of types that mean nothing to the model, such as calls of tools that run elsewhere, are left out with a note.
    """
    if isinstance(value, str):
        return [Turn("user", value)]
    reader = _InputReader(notes)
    for at, item in enumerate(value):
        reader.read(msgspec.convert(item, ItemBody), f"input[{at}]")
    return reader.turns


class _InputReader:
    def __init__(self, notes: list[str]) -> None:
        self.turns: list[Turn] = []
        self._notes = notes

    def read(self, item: ItemBody, path: str) -> None:
        match item.type or "message":
            case "message" if item.role == "assistant":
                turn = self._assistant()
                turn.content = [*turn.parts, *self._parts(item.content, f"{path}.content", strict=False)]
            case "message":
                role = checked_role(item.role, path, "role")
                content = item.content
                self.turns.append(Turn(role, content if isinstance(content, str) else self._parts(content, f"{path}.content")))
            case "function_call":
                arguments = item.arguments
                if isinstance(arguments, dict):  # some clients send the object itself
                    arguments = json.dumps(arguments, ensure_ascii=False)
                self._call(item, checked_text(arguments, path, "arguments"), path)
            case "custom_tool_call":
                self._call(item, json.dumps({"input": item.input}, ensure_ascii=False), path)
            case "function_call_output" | "custom_tool_call_output":
                call_id = checked_id(item.call_id, path, "call_id")
                self.turns.append(Turn("tool", self._output(item.output, f"{path}.output"), tool_call_id=call_id))
            case "reasoning":
                self._assistant(fresh=True).reasoning_content = _thought(item)
            case "item_reference":
                raise BadRequest(f"Field '{path}': items cannot be referred to here; send them whole", param=path)
            case kind:
                self._notes.append(left_out(kind))

    def _assistant(self, *, fresh: bool = False) -> Turn:
        """The assistant turn that is being put together; `fresh`: one that holds nothing yet."""
        last = self.turns[-1] if self.turns else None
        if last is None or last.role != "assistant" or (fresh and last != Turn("assistant")):
            self.turns.append(Turn("assistant"))
        return self.turns[-1]

    def _call(self, item: ItemBody, arguments: str, path: str) -> None:
        call: ToolCall = history_call(checked_id(item.call_id, path, "call_id"), checked_id(item.name, path, "name"), arguments)
        self._assistant().tool_calls.append(call)

    def _output(self, output: Any, path: str) -> str | list[ContentPart]:
        return output if isinstance(output, str) else self._parts(output, path, strict=False)

    def _parts(self, content: Any, path: str, *, strict: bool = True) -> list[ContentPart]:
        """`strict`: parts of unknown types are refused, not left out."""
        if isinstance(content, str):
            return [TextPart(text=content)]
        if content is None and not strict:
            return []
        if not isinstance(content, list):
            raise BadRequest(f"Field '{path}': should be a string or an array", param=path)
        parts = [self._part(part, f"{path}[{at}]", strict) for at, part in enumerate(content)]
        return [part for part in parts if part is not None]

    def _part(self, part: Any, path: str, strict: bool) -> ContentPart | None:
        fields: JsonObject = part if isinstance(part, dict) else {}
        match fields.get("type"):
            case "input_text" | "output_text" | "text":
                return TextPart(text=checked_text(fields.get("text"), path, "text"))
            case "refusal":
                return TextPart(text=checked_text(fields.get("refusal"), path, "refusal"))
            case "input_image":
                url = fields.get("image_url")
                if not isinstance(url, str):
                    return _stored_file(fields.get("file_id"), path, "image_url")
                if url.startswith(SPOOLED):
                    return SpooledSource(url.rpartition(",")[2])
                return ImageSource(url)
            case "input_file":
                data = fields.get("file_data")
                if not isinstance(data, str):
                    return _stored_file(fields.get("file_id"), path, "file_data")
                name = fields.get("filename")
                return read_document(data, f"{path}.file_data", filename=name if isinstance(name, str) else "")
            case kind if strict:
                raise BadRequest(f"Field '{path}.type': should be input_text, input_image or input_file", param=f"{path}.type")
            case kind:
                if isinstance(text := fields.get("text"), str):
                    return TextPart(text=text)
                self._notes.append(left_out(kind))
                return None


def _stored_file(file_id: Any, path: str, other: str) -> FileSource:
    """A file that was uploaded before. Raises BadRequest where neither it nor the `other` field is there."""
    if not isinstance(file_id, str):
        message = f"Field '{path}.{other}': '{other}' is required, as a data: URL, or 'file_id' of an uploaded file"
        raise BadRequest(message, param=f"{path}.{other}")
    return FileSource(checked_id(file_id, path, "file_id"), f"{path}.file_id")


def _thought(item: ItemBody) -> str:
    """The text of a reasoning item, or of its summary."""
    content = item.content if isinstance(item.content, list) and item.content else item.summary
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    return "\n".join(part["text"] for part in parts if isinstance(part.get("text"), str))
