"""What decides on an answer's tokens besides the model: a grammar, a budget of thinking, the way out of a repetition."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from batch.workers.chat.dialects.stream_parser import StreamParser
from batch.workers.chat.grammar.constraint import Constraint
from batch.workers.chat.grammar.matcher import Matcher
from batch.workers.chat.sampling.sampler import Sampler
from batch.workers.llama.model import Model

CLOSING_LIMIT_TOKENS = 256
"""How many tokens closing an answer may take; a schema that demands more ends cut."""
# A quote comes first: inside a string everything else would only be more of the string.
_CLOSING_TEXTS = ('<|"|>', '"', "]", "}", "```", "`", "<tool_call|>", "</tool_call>")


class ConstrainedDecoding:
    """Follows one choice."""

    def __init__(
        self,
        model: Model,
        constraint: Constraint | None,
        matcher: Callable[[], Matcher] | None,
        parser: StreamParser | None,
        *,
        thinking_budget: int,
        end_of_thinking: list[int],
    ) -> None:
        """`matcher` makes what follows the constraint's grammar, and is None where there is no constraint.

        `thinking_budget`: most tokens of thinking, below 0 for no limit; `end_of_thinking`: the tokens that end it."""
        self._model = model
        self._constraint = constraint
        self._make_matcher = matcher
        self._end_of_thinking = end_of_thinking
        self._parser = parser
        self._matcher: Matcher | None = None
        self._forced: list[int] = []
        """Tokens to write next instead of drawing them."""
        self._is_closing = False
        """Whether the answer has repeated itself and is brought to a valid end."""
        self.is_active = False
        """Whether the next token must come from `draw`."""
        self.remaining_thinking = thinking_budget if parser else -1
        """Tokens of thinking that are left; below 0: no limit."""

    def start(self, text: str | None = None) -> None:
        """Apply the constraint from here on; a lazy one waits for its trigger, behind which `text` already stands."""
        constraint = self._constraint
        if constraint is not None and (not constraint.lazy or text is not None):
            assert self._make_matcher is not None
            matcher = self._make_matcher()
            for token in self._model.tokenize(text) if text else ():
                if not matcher.allows(token):
                    return
                matcher.accept(token)
            self._matcher, self.is_active = matcher, True
        if self.remaining_thinking == 0:
            self.end_thinking()

    @property
    def awaits_trigger(self) -> bool:
        """Whether a lazy constraint has not been triggered yet."""
        return self._matcher is None and self._constraint is not None and self._constraint.lazy

    def end_thinking(self) -> None:
        """Write what closes the thinking, if the answer is inside it."""
        if self._parser is not None and self._parser.deliberating and not self._forced:
            self._forced = list(self._end_of_thinking)
            self.is_active = True

    def close_repetition(self) -> int | None:
        """Lead an answer that repeats itself to a valid end.

        Returns how many tokens that may take, 0 for no limit as only its thinking ends; None where nothing constrains it.
        """
        if self._matcher is None or self._constraint is None or not self._constraint.closable:
            return None
        if self._parser is not None and self._parser.deliberating:
            self.end_thinking()
            return 0
        self._is_closing = True
        return CLOSING_LIMIT_TOKENS

    def draw(self, sampler: Sampler, row: int) -> int | None:
        """The next token, from the logits in `row` of the last decode; None: the grammar allows nothing more."""
        if self._is_closing and self._matcher and not self._forced:
            matcher = self._matcher
            self._forced = next(([token] for token in self._closing_tokens if matcher.allows(token)), [])
        if not self._forced:
            assert self._matcher is not None
            return sampler.sample_within(self._matcher, row)
        token = self._forced.pop(0)
        sampler.accept((token,))
        if self._matcher is not None and token not in self._model.end_tokens:
            if self._matcher.allows(token):
                self._matcher.accept(token)
            else:
                self._matcher = None
        self.is_active = self._matcher is not None or bool(self._forced)
        return token

    @cached_property
    def _closing_tokens(self) -> list[int]:
        """Tokens that end something, the ones that end most first."""
        model = self._model
        ends = sorted(model.end_tokens, key=lambda token: token != model.eos)
        last = ((text, model.tokenize(text)[-1:]) for text in _CLOSING_TEXTS)
        return [*ends, *(ids[0] for text, ids in last if ids and model.piece(ids[0], special=True) == text.encode())]
