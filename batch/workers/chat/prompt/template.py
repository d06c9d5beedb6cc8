"""The model's own chat template: OpenAI messages in, prompt text out."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from itertools import chain
from typing import Any

import jinja2

from batch.errors import BadRequest, BatchError, NotSupported
from batch.workers.chat.dialects import gemma4_messages as gemma4_turns
from batch.workers.chat.dialects.derived.template_probe import REASONING_FIELDS
from batch.workers.chat.dialects.gemma4_tools import plain_tools
from batch.workers.chat.dialects.template_values import TemplateObject, TemplateValue
from batch.workers.chat.prompt.call_arguments import read_arguments
from batch.workers.chat.prompt.content_merging import flatten, merge_system
from batch.workers.chat.prompt.markup_escape import (
    MEDIA_MARKER,
    Media,
    Segment,
    Shadow,
    Specials,
    strings,
    text_behind,
    text_of,
)
from batch.workers.chat.prompt.template_environment import RenderingTooSlow, template_complaint, template_environment
from batch.workers.chat.prompt.tool_prompt import complete_tools

MAX_RENDERING_S = 10.0
"""A template is a program: one may look through all messages for each one."""
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_MEDIA = ("image", "audio", "video")
# A template that strips old thinking out of the assistant's answers has to see these in them.
_THINKING = ("<|channel>", "<channel|>", "<think>", "</think>", "[THINK]", "[/THINK]")


class ChatTemplate:
    """Renders messages with the template that the model file carries."""

    def __init__(
        self,
        source: str | None,
        bos: str = "",
        eos: str = "",
        *,
        control: Collection[str] = (),
        user_defined: Collection[str] = (),
    ) -> None:
        """`control` and `user_defined`: texts of the vocabulary's tokens with these attributes."""
        self.source = source or ""
        self.bos = bos
        self.eos = eos
        markers = {t for t in user_defined if len(t) > 1 and (t.startswith("<|") or t.endswith("|>") or t in self.source)}
        self.specials = Specials({*control, *markers, *filter(None, (bos, eos))})
        self._broken: str | None = None
        self.max_rendering_s = MAX_RENDERING_S
        self._environment = template_environment()
        markers_in_source = [m for m in _THINKING if m in self.source]
        self._thinking = re.compile("|".join(map(re.escape, markers_in_source))) if markers_in_source else None
        try:
            self._template: jinja2.Template | None = self._environment.compile_template(self.source) if source else None
        except (jinja2.TemplateError, RecursionError) as error:
            self._template, self._broken = None, template_complaint(error)

    def render(
        self,
        messages: Sequence[TemplateValue],
        *,
        tools: Sequence[TemplateValue] | None = None,
        enable_thinking: bool | None = None,
        add_generation_prompt: bool = True,
        kwargs: TemplateValue | None = None,
        media_marker: str = MEDIA_MARKER,
    ) -> str:
        """The prompt as one text, `media_marker` where media stand. Raises BadRequest with the template's complaint."""
        segments = self.render_segments(
            messages,
            tools=tools,
            enable_thinking=enable_thinking,
            add_generation_prompt=add_generation_prompt,
            kwargs=kwargs,
        )
        return text_of(segments, media_marker)

    def render_segments(
        self,
        messages: Sequence[TemplateValue],
        *,
        tools: Sequence[TemplateValue] | None = None,
        enable_thinking: bool | None = None,
        add_generation_prompt: bool = True,
        kwargs: TemplateValue | None = None,
    ) -> list[Segment | Media]:
        """The prompt cut so that each Segment can be tokenised on its own, Media in the order of the messages' parts.

        Joined, the texts are what `render` gives; tokenised one by one, they are the tokens of the whole, except that
        a special token's text inside what the client wrote stays text.
        """
        with _refused_nesting():
            return self._segments(messages, tools, enable_thinking, add_generation_prompt, dict(kwargs or {}))[0]

    def render_prompt(
        self,
        messages: Sequence[TemplateValue],
        *,
        tools: Sequence[TemplateValue] | None = None,
        enable_thinking: bool | None = None,
        kwargs: TemplateValue | None = None,
    ) -> tuple[list[Segment | Media], str]:
        """The prompt cut as `render_segments` cuts it, and the text that it has behind the last message."""
        with _refused_nesting():
            return self._segments(messages, tools, enable_thinking, True, dict(kwargs or {}), with_tail=True)

    def probe(
        self, messages: Sequence[TemplateValue], tools: Sequence[TemplateValue], add_generation_prompt: bool
    ) -> str | None:
        """The prompt of messages that a dialect is read off; None where the template refuses them."""
        try:
            with self._environment.probing():
                return self.render(messages, tools=tools or None, add_generation_prompt=add_generation_prompt)
        except BatchError:
            return None

    @cached_property
    def takes_parts(self) -> bool:
        """Whether the template renders a content that is a list of text parts."""
        out = self._probe([{"role": "user", "content": [{"type": "text", "text": "probe-text"}]}])
        return out is not None and "probe-text" in out and "'text'" not in out and '"text"' not in out

    @cached_property
    def takes_strings(self) -> bool:
        """Whether the template renders a content that is a string."""
        out = self._probe([{"role": "user", "content": "probe-text"}])
        return out is not None and "probe-text" in out

    @cached_property
    def takes_system(self) -> bool:
        """Whether the template renders a system message."""
        user = {"role": "user", "content": self._content("u")}
        out = self._probe([{"role": "system", "content": self._content("probe-text")}, user])
        return out is not None and "probe-text" in out

    @cached_property
    def takes_objects(self) -> bool:
        """Whether tool-call arguments are to be objects (else JSON text)."""
        call = {"id": "call00001", "type": "function", "function": {"name": "f", "arguments": {"probe_key": "v"}}}
        turns = [
            {"role": "user", "content": self._content("u")},
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ]
        out = self._probe(turns)
        return out is not None and "{'probe_key'" not in out

    @cached_property
    def reasoning_field(self) -> str:
        """The field of an assistant's message in which the template reads its thinking."""
        call = {"id": "call00001", "type": "function", "function": {"name": "f", "arguments": {}}}
        for name in REASONING_FIELDS:
            for extra in ({"content": self._content("a")}, {"content": "", "tool_calls": [call]}):
                turns = [{"role": "user", "content": self._content("u")}, {"role": "assistant", name: "probe-text", **extra}]
                if "probe-text" in (self._probe(turns) or ""):
                    return name
        return REASONING_FIELDS[0]

    def _segments(
        self,
        messages: Sequence[TemplateValue],
        tools: Sequence[TemplateValue] | None,
        enable_thinking: bool | None,
        add_generation_prompt: bool,
        kwargs: TemplateObject,
        *,
        with_tail: bool = False,
    ) -> tuple[list[Segment | Media], str]:
        self._usable()
        count = _check(messages)
        shadow = Shadow(
            self.specials, count, chain(strings(list(messages)), strings(tools or []), strings(kwargs), [self.source])
        )
        media = iter(shadow.media)
        plain = [self._message(m, i) for i, m in enumerate(messages)]
        if not self.takes_system:
            plain = merge_system(plain)
        turns = [self._hidden(m, shadow, media) for m in gemma4_turns.prepare(self.source, plain)]
        values: TemplateObject = shadow.hide(kwargs)
        if tools:
            shown_tools: Sequence[TemplateValue] = plain_tools(tools) if gemma4_turns.calls_tools(self.source) else tools
            values["tools"] = shadow.hide(list(shown_tools))
        if "functions" in self._environment.variables:
            # Firefunction's template takes their text.
            values["functions"] = json.dumps(values.get("tools", []), ensure_ascii=False, indent=4)
        if tools and "xml_tools" in self._environment.variables and "tools" not in self._environment.variables:
            values["xml_tools"] = values["tools"]
        if enable_thinking is not None:
            values["enable_thinking"] = enable_thinking
        values.update(messages=turns, add_generation_prompt=add_generation_prompt)
        try:
            rendered = self._run(values)
        except BadRequest:
            if not tools:
                raise
            values["tools"] = shadow.hide(complete_tools(tools))
            rendered = self._run(values)
        rendered += gemma4_turns.finish(self.source, rendered, add_generation_prompt)
        segments = shadow.segments(rendered)
        if sum(isinstance(s, Media) for s in segments) != count:
            raise BadRequest("messages: this model's chat template does not take images in the role they stand in.")
        if not with_tail:
            return segments, ""
        history = self._run({**values, "add_generation_prompt": False})
        return segments, text_of(shadow.segments(text_behind(rendered, history)))

    def _message(self, message: TemplateValue, index: int) -> TemplateObject:
        """One message in the shapes that templates expect, its texts still the client's."""
        prepared = {k: v for k, v in message.items() if v is not None}
        if prepared["role"] == "developer" and "<|channel|>" not in self.source:
            prepared["role"] = "system"
        prepared.setdefault("content", "")
        if thought := prepared.pop("reasoning_content", None):
            prepared[self.reasoning_field] = thought
        calls = prepared.get("tool_calls")
        if calls:
            prepared["tool_calls"] = [self._call(c, f"messages[{index}].tool_calls[{i}]") for i, c in enumerate(calls)]
        else:
            prepared.pop("tool_calls", None)
        return prepared

    def _call(self, call: Any, where: str) -> TemplateObject:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise BadRequest(f"{where}.function must be an object with a name.")
        arguments = function.get("arguments")
        if isinstance(arguments, str) and self.takes_objects:
            arguments = read_arguments(arguments)
        elif not isinstance(arguments, str) and not self.takes_objects:
            arguments = json.dumps({} if arguments is None else arguments, ensure_ascii=False)
        prepared = {**function, "arguments": {} if arguments is None else arguments}
        return {**call, "type": "function", "function": prepared}

    def _hidden(self, message: TemplateObject, shadow: Shadow, media: Iterable[str]) -> TemplateObject:
        """The message in disguise, media as the shadow's characters in a content of one string."""
        keep = self._thinking if message["role"] == "assistant" else None
        content = message.get("content")
        if message["role"] in ("system", "developer") and isinstance(content, list) and self.takes_strings:
            # Templates that know parts in users' messages print those of a system message as a Python list.
            texts = [p["text"] for p in content if p["type"] == "text"]
            content = "\n".join(texts) if len(texts) == len(content) else content
        turn: TemplateObject = {k: shadow.hide(v) for k, v in message.items() if k != "content"}
        if content is None:
            return turn
        if isinstance(content, str):
            turn["content"] = self._content(shadow.hide(content, keep))
            return turn
        parts = [shadow.hide(p["text"], keep) if p["type"] == "text" else None for p in content]
        if None in parts or not self.takes_parts or not parts:
            turn["content"] = self._content(flatten(parts, iter(media)))
        else:
            turn["content"] = [{"type": "text", "text": text} for text in parts]
        return turn

    def _content(self, text: str) -> Any:
        return text if self.takes_strings or not self.takes_parts else [{"type": "text", "text": text}]

    def _usable(self) -> None:
        if self._broken is not None:
            raise NotSupported(f"The model's chat template cannot be read: {self._broken}")
        if self._template is None:
            raise BadRequest("This model has no chat template, so it cannot chat: use /v1/completions.")

    def _probe(self, messages: list[TemplateObject]) -> str | None:
        try:
            with self._environment.probing():
                return self._run({"messages": messages, "add_generation_prompt": False})
        except BadRequest:
            return None

    def _run(self, values: TemplateValue) -> str:
        assert self._template is not None
        now = datetime.now()
        variables = {
            "bos_token": self.bos,
            "eos_token": self.eos,
            "datetime": now.strftime("%b %d %Y"),
            "date_string": now.strftime("%d %b %Y"),
            **({"functions": "[]"} if "functions" in self._environment.variables else {}),
            **values,
        }
        self._environment.start_clock(self.max_rendering_s)
        try:
            return self._template.render(variables)
        except RecursionError:
            raise
        except RenderingTooSlow:
            raise BadRequest(
                f"messages take longer than {self.max_rendering_s:.0f} s to render with this model's chat template: "
                "send fewer of them.",
                param="messages",
            ) from None
        except Exception as error:  # a template is a program: it can fail in any way on messages it did not expect
            raise BadRequest(f"The model's chat template refuses these messages: {template_complaint(error)}") from error


@contextlib.contextmanager
def _refused_nesting() -> Iterator[None]:
    try:
        yield
    except RecursionError:
        raise BadRequest("messages or tools are nested too deeply.") from None


def _check(messages: Sequence[TemplateValue]) -> int:
    """How many media parts the messages hold; BadRequest where their shape is none that can be rendered."""
    if not messages:
        raise BadRequest("messages must not be empty.")
    count = 0
    for i, message in enumerate(messages):
        role = message.get("role")
        if role not in _ROLES:
            raise BadRequest(f"messages[{i}].role must be one of {', '.join(_ROLES)}.")
        content = message.get("content")
        if content is None or isinstance(content, str):
            continue
        if not isinstance(content, list):
            raise BadRequest(f"messages[{i}].content must be a string, null or a list of parts.")
        for j, part in enumerate(content):
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind in _MEDIA:
                count += 1
            elif kind != "text" or not isinstance(part.get("text"), str):
                raise BadRequest(f"messages[{i}].content[{j}] must be a text or an image part.")
    return count
