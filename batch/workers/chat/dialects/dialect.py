"""How a model writes: thinking, answer and tool calls in one stream of text, told apart while it arrives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from batch.workers.chat.dialects import gemma4_messages as gemma4_turns
from batch.workers.chat.dialects import gemma4_output as gemma4
from batch.workers.chat.dialects import harmony
from batch.workers.chat.dialects.derived import known_markers
from batch.workers.chat.dialects.derived.layout import AnswerLayout, CallLayout, behind_thought, without_ends
from batch.workers.chat.dialects.derived.marked_parser import MarkedParser
from batch.workers.chat.dialects.derived.template_probe import Render, TemplateProbe
from batch.workers.chat.dialects.gemma4_arguments import CALL_END, QUOTE
from batch.workers.chat.dialects.stream_parser import Reading, StreamParser
from batch.workers.chat.dialects.template_values import TemplateObject, TemplateValue

_MAX_RENDERED_CHARS = 1 << 17
"""Of a few words: far more than any template makes of them, and compared place by place."""
ReasoningFormat = Literal["none", "auto", "deepseek"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way of writing."""

    name: str
    """gemma4, harmony, derived (read off the template), think or plain."""
    make: Callable[[Reading], StreamParser]
    thinking: tuple[str, str] | None
    """What opens and what closes the thinking, if the model thinks."""
    enable_thinking: bool | None
    """What to tell the template when the request does not say; None: leave it to the template."""
    calls: Literal["gemma4", "harmony"] | CallLayout | None
    """In which syntax functions are called; None: the model knows none, or it is not understood."""
    fence: bool = False
    """Whether JSON answers stand in a Markdown fence, as the model learned it."""
    shows_tools: bool = True
    """Whether the template tells the model of the functions it may call."""
    answer: AnswerLayout = field(default_factory=AnswerLayout)
    """What a derived dialect has around answers."""

    def parser(
        self,
        *,
        reasoning_format: ReasoningFormat = "auto",
        functions: frozenset[str] = frozenset(),
        schemas: Mapping[str, TemplateValue] | None = None,
        parallel: bool = True,
        prompt_tail: str = "",
        fenced: bool = False,
        prefill: str = "",
    ) -> StreamParser:
        """A parser for one answer.

        `functions` names those that may be called, `schemas` has their parameters; `prompt_tail` is the end of the
        prompt, at least what follows its last message; `fenced` says that the answer is bound to stand in a fence
        (Constraint.fenced); `prefill` is text of the answer that the prompt already holds: part of the message, told
        in no delta.
        """
        callable_functions = functions if self.calls else frozenset()
        reading = Reading(reasoning_format == "none", callable_functions, schemas or {}, parallel, prompt_tail, fenced)
        parser = self.make(reading)
        if prefill:
            parser.feed(prefill)
        return parser

    def prefill_begin(self, tail: str) -> str:
        """What a prompt with this end needs before the beginning of an answer: the end of a thought, an answer's mark."""
        text = ""
        if self.thinking is not None and tail.rfind(self.thinking[0]) > tail.rfind(self.thinking[1]):
            text = self.thinking[1]
        if self.calls == "harmony":
            return (text + harmony.START + "assistant" if text else "") + harmony.FINAL
        return text + self.answer.content_begin

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts whose tokens the parser has to see even where the vocabulary calls them control tokens."""
        thinking = self.thinking or ()
        match self.calls:
            case "gemma4":
                return (*thinking, gemma4.OPEN, gemma4.CALL, CALL_END, QUOTE)
            case "harmony":
                return (*thinking, *harmony.MARKERS)
            case CallLayout() as layout:
                tags = layout.tags
                texts = [layout.head, layout.call_begin, layout.name_end, layout.call_end, layout.separator, layout.section_end]
                if tags is not None:
                    texts += [tags.begin, *tags.middles.values(), tags.end, tags.separator]
                return (*thinking, self.answer.content_begin, self.answer.content_end, *texts)
        return (*thinking, gemma4.OPEN, self.answer.content_begin, self.answer.content_end)


def for_template(source: str | None, render: Render | None = None, *, ends: frozenset[str] = frozenset()) -> Dialect:
    """The dialect that a chat template shows its model to write.

    `render` renders messages with it; without it only what can be seen in the template's text is known. `ends`: texts
    of the tokens that end an answer.
    """
    source = source or ""
    if gemma4.OPEN in source and gemma4.CLOSE in source and "<|turn>" in source:
        return Dialect(
            name="gemma4",
            make=gemma4.Gemma4Parser,
            thinking=(f"{gemma4.OPEN}{gemma4.THOUGHT}", gemma4.CLOSE),
            enable_thinking=True,
            calls="gemma4",
            fence=gemma4_turns.calls_tools(source),
        )
    if harmony.is_harmony(source):
        return Dialect(
            name="harmony",
            make=harmony.HarmonyParser,
            thinking=harmony.THINKING,
            enable_thinking=None,
            calls="harmony",
        )
    return _derived(source, render, ends)


def _derived(source: str, render: Render | None, ends: frozenset[str]) -> Dialect:
    calls, answer, shows_tools = None, AnswerLayout(), True
    if render is not None:
        probe = TemplateProbe(_bounded(render))
        calls = probe.calls()
        answer = probe.answers(calls)
        calls = without_ends(behind_thought(calls, answer), ends) if calls else None
        shows_tools = probe.shows_tools
        if calls is None and shows_tools:
            calls = known_markers.call_layout(source)
    else:
        calls = known_markers.call_layout(source)
    if answer.thinking is None:
        answer = known_markers.answer_layout(source, answer)
    return Dialect(
        name="derived" if calls else "think" if answer.thinking else "plain",
        make=lambda reading: MarkedParser(reading, answer, calls),
        thinking=answer.thinking,
        enable_thinking=None,
        calls=calls,
        shows_tools=shows_tools,
        answer=answer,
    )


def _bounded(render: Render) -> Render:
    """As `render`, but refusing a text that is too long to be looked through."""

    def bounded(messages: Sequence[TemplateObject], tools: Sequence[TemplateObject], add_generation_prompt: bool) -> str | None:
        text = render(messages, tools, add_generation_prompt)
        return text if text is None or len(text) <= _MAX_RENDERED_CHARS else None

    return bounded
