"""What decides on an answer's tokens beside the model: a grammar, the thinking's budget, the way out of a repetition."""

from __future__ import annotations

from batch.workers.chat.closing import MOST, Closing
from batch.workers.chat.dialects.stream_parser import StreamParser
from batch.workers.chat.grammar.matcher import Grammar
from batch.workers.chat.sampler import Sampler
from batch.workers.chat.task_params import Plan
from batch.workers.llama.context import Context
from batch.workers.llama.model import Model


class Steering:
    """Steers one choice. `close` must be called at its end."""

    def __init__(self, model: Model, plan: Plan, parser: StreamParser | None) -> None:
        self._model = model
        self._constraint = plan.constraint
        self._end_of_thought = plan.closing
        self._parser = parser
        self._grammar: Grammar | None = None
        self._forced: list[int] = []
        """Tokens to write next instead of drawing."""
        self._closing: Closing | None = None
        """Set once a bound answer has repeated itself."""
        self.bound = False
        """Whether `draw` has to be asked for the next token."""
        self.budget = plan.budget if parser else -1
        """Tokens of thinking that are left; below 0: no limit."""

    def begin(self, written: str | None = None) -> None:
        """Bind what comes next; a lazy constraint waits for its trigger, behind which `written` stands already."""
        constraint = self._constraint
        if constraint is not None and (not constraint.lazy or written is not None):
            grammar = Grammar(self._model, constraint.grammar, constraint.root)
            for token in self._model.tokenize(written) if written else ():
                if not grammar.allows(token):
                    grammar.close()
                    return
                grammar.accept(token)
            self._grammar, self.bound = grammar, True
        if self.budget == 0:
            self.end_thinking()

    @property
    def waits(self) -> bool:
        """Whether a constraint waits for its trigger."""
        return self._grammar is None and self._constraint is not None and self._constraint.lazy

    def end_thinking(self) -> None:
        """Write what closes the thinking, if the answer is inside it."""
        if self._parser is not None and self._parser.deliberating and not self._forced:
            self._forced = list(self._end_of_thought)
            self.bound = True

    def collapsed(self) -> int | None:
        """Lead a bound answer that repeats itself to a valid end: how many tokens that may take, 0 for no limit as only
        its thinking ends; None where nothing binds it."""
        if self._grammar is None or self._constraint is None or not self._constraint.closable:
            return None
        if self._parser is not None and self._parser.deliberating:
            self.end_thinking()
            return 0
        self._closing = self._closing or Closing(self._model)
        return MOST

    def draw(self, sampler: Sampler, context: Context) -> int | None:
        """The next token; None: the grammar allows nothing more."""
        if self._closing and self._grammar and not self._forced:
            self._forced = [token] if (token := self._closing.token(self._grammar)) is not None else []
        if not self._forced:
            assert self._grammar is not None
            return sampler.sample_within(context, self._grammar)
        token = self._forced.pop(0)
        sampler.accept((token,))
        if self._grammar is not None and token not in self._model.end_tokens:
            if self._grammar.allows(token):
                self._grammar.accept(token)
            else:
                self.close()
        self.bound = self._grammar is not None or bool(self._forced)
        return token

    def close(self) -> None:
        """Let go of the grammar."""
        if self._grammar is not None:
            self._grammar.close()
            self._grammar = None
