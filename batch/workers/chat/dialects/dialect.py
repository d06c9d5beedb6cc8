"""How a model writes: thinking, answer and tool calls in one stream of text, told apart while it arrives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from batch.workers.chat.dialects import gemma4_messages as gemma4_turns
from batch.workers.chat.dialects import gemma4_output as gemma4
from batch.workers.chat.dialects import think_tags as think
from batch.workers.chat.dialects.stream_parser import Reading, StreamParser

ReasoningFormat = Literal["none", "auto", "deepseek"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way of writing."""

    name: str
    """gemma4, think or plain."""
    make: Callable[[Reading], StreamParser]
    thinking: tuple[str, str] | None
    """What opens and what closes the thinking, if the model thinks."""
    enable_thinking: bool | None
    """What to tell the template when the request does not say; None: leave it to the template."""
    calls: Literal["gemma4", "json"] | None
    """In which syntax functions are called; None: the model knows none."""
    fence: bool = False
    """Whether JSON answers stand in a Markdown fence, as the model learned it."""

    def parser(
        self,
        *,
        reasoning_format: ReasoningFormat = "auto",
        functions: frozenset[str] = frozenset(),
        parallel: bool = True,
        prompt_tail: str = "",
        fenced: bool = False,
        prefill: str = "",
    ) -> StreamParser:
        """A parser for one answer.

        `functions` names those that may be called; `prompt_tail` is the end of the prompt, at least what follows its
        last message; `fenced` says that the answer is bound to stand in a fence (Constraint.fenced); `prefill` is text
        of the answer that the prompt already holds: part of the message, told in no delta.
        """
        callable_functions = functions if self.calls else frozenset()
        parser = self.make(Reading(reasoning_format == "none", callable_functions, parallel, prompt_tail, fenced))
        if prefill:
            parser.feed(prefill)
        return parser


def for_template(source: str | None) -> Dialect:
    """The dialect that a chat template shows its model to write."""
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
    pair = next((p for p in think.PAIRS if p[1] in source), None)
    return Dialect(
        name="think" if pair else "plain",
        make=lambda reading: think.ThinkParser(reading, pair),
        thinking=pair,
        enable_thinking=None,
        calls="json" if think.calls_functions(source) else None,
    )
