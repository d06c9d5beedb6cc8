"""From a request to the cells of its prompt: template, tokens, pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any

from batch.errors import BadRequest
from batch.payloads.chat import ChatPayload
from batch.workers.chat.dialects.derived.layout import CallLayout
from batch.workers.chat.dialects.dialect import Dialect
from batch.workers.chat.dialects.template_values import TemplateObject
from batch.workers.chat.images.image_chunk import TokenizedImage
from batch.workers.chat.kv.token_sequence import TokenSequence
from batch.workers.chat.prompt.markup_escape import Media, Segment, text_of
from batch.workers.chat.prompt.template import ChatTemplate
from batch.workers.chat.prompt.template_input import template_messages, template_tools
from batch.workers.chat.prompt.tool_prompt import with_tools_told
from batch.workers.llama.model import Model


@dataclass(slots=True)
class PromptText:
    """A prompt before its pictures are looked at."""

    parts: list[list[int] | str] = field(default_factory=list)
    """Token lists, and sha256 names of pictures, in order."""
    text: str = ""
    """For people: pictures as markers."""
    thinking: bool | None = None
    """What the template was told of thinking; None: nothing."""
    prefill: str = ""
    """The beginning of the answer, which the last message gave."""
    tail: str = ""
    """What the template writes behind the last message: it alone decides whether the answer begins inside a thought."""

    def tokens(self, picture: Callable[[str], int]) -> int:
        return sum(picture(p) if isinstance(p, str) else len(p) for p in self.parts)

    def token_sequence(self, tokenize_image: Callable[[str], TokenizedImage]) -> TokenSequence:
        """The prompt with its pictures, which `tokenize_image` reads by their sha256."""
        sequence = TokenSequence()
        for part in self.parts:
            if isinstance(part, str):
                sequence.append_image(tokenize_image(part))
            else:
                sequence.append_tokens(part)
        return sequence


class PromptMaker:
    """Makes prompts for one model. May be used from any thread."""

    def __init__(
        self, model: Model, template: ChatTemplate, dialect: Dialect, *, thinks_by_default: bool | None = None
    ) -> None:
        """`thinks_by_default`: whether to think where a request does not say; None: as the dialect has it."""
        self._thinks_by_default = dialect.enable_thinking if thinks_by_default is None else thinks_by_default
        self._model = model
        self._template = template
        self._dialect = dialect

    def chat(self, payload: ChatPayload) -> PromptText:
        """Raises BadRequest where the messages cannot be rendered."""
        messages = template_messages(payload.messages)
        kwargs = dict(payload.chat_template_kwargs)
        thinking = kwargs.pop("enable_thinking", None)
        if payload.enable_thinking is not None:
            thinking = payload.enable_thinking
        prefill = _prefill(messages)
        if prefill:
            messages.pop()
            thinking = bool(thinking)
        if thinking is None:
            thinking = self._thinks_by_default
        tools = template_tools(payload.tools) if payload.tool_choice != "none" else []
        if tools and isinstance(self._dialect.calls, CallLayout) and not self._dialect.shows_tools:
            messages = with_tools_told(messages, tools, self._dialect.calls)
        segments, tail = self._template.render_prompt(messages, tools=tools or None, enable_thinking=thinking, kwargs=kwargs)
        if prefill:
            before = self._dialect.prefill_begin(tail)
            if before:
                # The answer goes on from the prefill, so the thought that the template opens ends before it.
                segments.append(Segment(before, True))
                tail += before
            segments.append(Segment(prefill, False))
        prompt = PromptText(thinking=thinking, prefill=prefill, tail=tail)
        prompt.text = text_of(segments)
        pictures = list(_pictures(messages))
        bos = self._model.token_text(self._model.bos)
        first = segments[0] if segments else None
        if self._model.add_bos:
            prompt.parts.append([self._model.bos])
            # The template writes it too; the tokeniser's is the one that counts.
            if isinstance(first, Segment) and first.trusted and bos and first.text.startswith(bos):
                segments[0] = Segment(first.text.removeprefix(bos), True)
        for is_media, run in groupby(segments, lambda s: isinstance(s, Media)):
            if is_media:
                prompt.parts += [pictures[s.index] for s in run if isinstance(s, Media)]
            else:
                prompt.parts.append(self._tokens([s for s in run if isinstance(s, Segment)]))
        return prompt

    def _tokens(self, run: list[Segment]) -> list[int]:
        if not any(not a.trusted and not b.trusted for a, b in pairwise(run)):
            # Nobody but the template wrote special tokens, so the text as a whole is the model's own reading.
            return self._model.tokenize("".join(s.text for s in run), parse_special=True)
        return [t for s in run for t in self._model.tokenize(s.text, parse_special=s.trusted)]

    def completion(self, prompt: Any) -> PromptText:
        """A text, tokens, or a mix, as llama-server reads them."""
        prompt_text = PromptText()
        tokens = self.mixed(prompt, add_special=True, parse_special=True)
        if not tokens:
            raise BadRequest("prompt must not be empty.")
        prompt_text.parts.append(tokens)
        prompt_text.text = prompt if isinstance(prompt, str) else ""
        return prompt_text

    def mixed(self, content: Any, *, add_special: bool, parse_special: bool, name: str = "prompt") -> list[int]:
        """Tokens of a text, or of a list that mixes texts and tokens. Raises BadRequest on a token out of range."""
        if isinstance(content, str):
            return self._model.tokenize(content, add_special=add_special, parse_special=parse_special)
        tokens: list[int] = []
        for i, item in enumerate(content or []):
            if isinstance(item, str):
                special = add_special and i == 0
                tokens += self._model.tokenize(item, add_special=special, parse_special=parse_special)
            elif isinstance(item, int) and 0 <= item < self._model.n_vocab:
                tokens.append(item)
            else:
                raise BadRequest(f"{name} holds {item!r}, which is neither a text nor a token of this model.")
        return tokens


def _prefill(messages: list[TemplateObject]) -> str:
    """The text of a last message of the assistant: the answer goes on from there."""
    last = messages[-1] if messages else {}
    if last.get("role") != "assistant" or last.get("tool_calls"):
        return ""
    if len(messages) > 1 and messages[-2].get("role") == "assistant":
        raise BadRequest("Cannot have 2 or more assistant messages at the end of the list.")
    content = last.get("content")
    if isinstance(content, list):
        content = "".join(p.get("text", "") for p in content if p.get("type") == "text")
    return content or ""


def _pictures(messages: list[TemplateObject]) -> Iterator[str]:
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            for part in content:
                if part.get("type") == "image":
                    yield str(part["blob"])
