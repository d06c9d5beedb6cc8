"""A conversation as the requests of all chat APIs become one: checked, its pictures and documents not yet in the spool."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeGuard, get_args

from batch.api.generation.tools.offer import ToolOffer
from batch.api.json_body import quoted
from batch.errors import BadRequest
from batch.payloads.chat import FunctionCall, GenerationParams, TextPart, ToolCall

Role = Literal["system", "developer", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = get_args(Role)

MAX_TURNS = 10_000
"""Most messages of a conversation, which the template renders one by one."""
MAX_PARTS = 10_000
"""Most parts of all messages together."""
MAX_ID_CHARS = 512
"""Longest name or id that a request refers by."""


@dataclass(frozen=True, slots=True)
class ImageSource:
    """A picture as the request holds it."""

    encoded: str
    """A data: URL, or bare base64."""


@dataclass(frozen=True, slots=True)
class DocumentSource:
    """A PDF as the request holds it."""

    encoded: str
    """Base64."""
    title: str = ""


@dataclass(frozen=True, slots=True)
class FileSource:
    """A picture, PDF or text that was uploaded before."""

    file_id: str
    path: str
    """The field that names it."""


@dataclass(frozen=True, slots=True)
class SpooledSource:
    """A picture of a stored item."""

    sha256: str
    """Of its bytes in the spool."""


ContentPart = TextPart | ImageSource | DocumentSource | FileSource | SpooledSource


@dataclass(slots=True)
class Turn:
    """One message."""

    role: Role
    content: str | list[ContentPart] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] = field(default_factory=list)
    tool_call_id: str | None = None

    @property
    def parts(self) -> list[ContentPart]:
        return self.content if isinstance(self.content, list) else []


@dataclass(slots=True, kw_only=True)
class Thinking:
    """Whether and how the model thinks before it answers."""

    enabled: bool | None = None
    """None: the template's own default."""
    reasoning_format: Literal["none", "auto", "deepseek"] = "auto"
    budget_tokens: int = -1
    """Most tokens of thinking; -1: no limit."""
    template_kwargs: dict[str, object] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class ChatRequest:
    """A checked chat request of any API."""

    turns: list[Turn]
    generation: GenerationParams
    offer: ToolOffer = field(default_factory=ToolOffer)
    thinking: Thinking = field(default_factory=Thinking)
    choices: int = 1
    stream: bool = False
    model: str | None = None
    """As the client names it."""
    notes: list[str] = field(default_factory=list)
    """What a person should know: what was left out of the history."""

    @property
    def encoded_bytes(self) -> int:
        """Bytes of the body that are pictures and documents."""
        return sum(len(source.encoded) for source in self.sources if isinstance(source, (ImageSource, DocumentSource)))

    @property
    def sources(self) -> Iterator[ImageSource | DocumentSource | FileSource | SpooledSource]:
        """Every picture and document, in order."""
        for turn in self.turns:
            for part in turn.parts:
                if not isinstance(part, TextPart):
                    yield part


def is_role(word: object) -> TypeGuard[Role]:
    """Whether this is one of `ROLES`."""
    return word in ROLES


def checked_role(word: object, path: str, field: str) -> Role:
    """A message's role. Raises BadRequest naming `path`.`field`."""
    if not is_role(word):
        raise _wrong(path, field, f"should be one of {', '.join(ROLES)}")
    return word


def checked_id(value: object, path: str, field: str) -> str:
    """A name or id. Raises BadRequest naming `path`.`field` where it is no string or too long to be one."""
    if not isinstance(value, str):
        raise _wrong(path, field, "should be a string")
    if len(value) > MAX_ID_CHARS:
        raise _wrong(path, field, f"should hold at most {MAX_ID_CHARS} characters")
    return value


def checked_text(value: object, path: str, field: str) -> str:
    """A text of any length. Raises BadRequest naming `path`.`field` where it is no string."""
    if not isinstance(value, str):
        raise _wrong(path, field, "should be a string")
    return value


def _wrong(path: str, field: str, sentence: str) -> BadRequest:
    return BadRequest(f"Field '{path}.{field}': {sentence}", param=f"{path}.{field}")


def history_call(call_id: str | None, name: str, arguments: str) -> ToolCall:
    """A call of an earlier answer: its arguments are taken as they are, also where max_tokens cut them."""
    return ToolCall(id=call_id, function=FunctionCall(name=name, arguments=arguments))


def check_sizes(turns: list[Turn], path: str) -> None:
    """Raise BadRequest for a conversation of more messages or parts than any has. `path`: the field that holds it."""
    if len(turns) > MAX_TURNS:
        raise BadRequest(f"Field '{path}': should hold at most {MAX_TURNS} messages, not {len(turns)}", param=path)
    if sum(len(turn.parts) for turn in turns) > MAX_PARTS:
        raise BadRequest(f"Field '{path}': should hold at most {MAX_PARTS} parts of content", param=path)


def left_out(kind: object) -> str:
    """A note that history of this kind says nothing to the model."""
    return f"blocks of type {quoted(str(kind))} were left out of the history"
