"""Which tokens a grammar allows next: llguidance over a model's vocabulary, with a bound on every step."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from batch.errors import BadRequest, Unavailable

_STACK_BYTES = 256 << 20
"""Address space of the thread that compiles: the engine follows references and nesting by recursion."""
_KEPT_GRAMMARS = 32
COMPILE_LIMIT_S = 10.0
"""Seconds that a job waits for its grammar: the largest that is taken needs two."""
_MAX_ABANDONED = 2
"""Compilations beyond their time that may go on beside one another."""
_LIMITS = LLParserLimits(
    max_items_in_row=10_000,
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=1_000_000,
    step_max_items=300_000,
    max_lexer_states=50_000,
    max_grammar_size=500_000,
    precompute_large_lexemes=False,
    verbose_errors=False,
)
"""A step takes some 0.1 s at the most; a grammar that needs more is refused, or ends its job."""
_stack_size = threading.Lock()

Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]


class Vocabulary:
    """The tokens of one model, prepared once. May be used from any thread."""

    def __init__(self, tokens: Sequence[bytes], ends: Collection[int], special: Mapping[str, int]) -> None:
        """`tokens`: the text of each. `ends`: those that end an answer. `special`: those that no text of a grammar can
        spell, as they are control tokens or markers, by their texts."""
        self.size = len(tokens)
        self.ends = frozenset(ends)
        self._special = dict(special)
        self._tokenizer = LLTokenizer(
            TokenizerWrapper(_Tokens(tokens, sorted(self.ends), sorted(special.values()))), eos_token=sorted(self.ends)
        )
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._abandoned: list[threading.Thread] = []
        """Threads that compile what nobody waits for any more; each ends by the engine's limits."""
        self._lock = threading.Lock()

    def token_id(self, text: str) -> int | None:
        """The special token with this text."""
        return self._special.get(text)

    def compile(self, grammar: str, field: str) -> LLMatcher:
        """A matcher at the grammar's start. Raises BadRequest, naming `field`, for a grammar that cannot be followed."""
        with self._lock:
            cached = self._compiled.get(grammar)
            if cached is not None:
                self._compiled.move_to_end(grammar)
                return cached.deep_copy()
        compiled = self._compile(grammar, field)
        if compiled.is_error():
            raise BadRequest(f"{field} cannot be turned into a grammar ({_reason(compiled)}).")
        with self._lock:
            self._compiled[grammar] = compiled
            while len(self._compiled) > _KEPT_GRAMMARS:
                self._compiled.popitem(last=False)
            return compiled.deep_copy()

    def _compile(self, grammar: str, field: str) -> LLMatcher:
        """Compile in a thread that the job need not wait for: the engine lets go of the interpreter's lock meanwhile."""
        with self._lock:
            self._abandoned = [thread for thread in self._abandoned if thread.is_alive()]
            if len(self._abandoned) >= _MAX_ABANDONED:
                raise Unavailable("Grammars that take too long are still being compiled: try again in a minute.")
        matchers: list[LLMatcher] = []
        thread = _start_compiling(self._tokenizer, grammar, matchers)
        thread.join(COMPILE_LIMIT_S)
        if not matchers:
            with self._lock:
                self._abandoned.append(thread)
            raise BadRequest(
                f"{field} takes longer than {COMPILE_LIMIT_S:.0f} seconds to turn into a grammar: make it simpler."
            )
        return matchers[0]


class Matcher:
    """Follows one answer through a grammar."""

    def __init__(self, vocabulary: Vocabulary, grammar: str, field: str) -> None:
        """`field` names the request's field in errors. Raises BadRequest for a grammar that cannot be followed."""
        self._vocabulary = vocabulary
        self._matcher = vocabulary.compile(grammar, field)
        self._field = field
        self._mask: Mask | None = None

    def allows(self, token: int) -> bool:
        """Whether the token may come next."""
        if token in self._vocabulary.ends:
            return self.is_complete
        return self._matcher.validate_tokens([token]) == 1

    def accept(self, token: int) -> None:
        """The token came. Raises BadRequest where the grammar becomes too complex to be followed further, and for a
        token that it does not allow."""
        self._mask = None
        if not self._matcher.consume_token(token):
            raise BadRequest(f"{self._field} became too complex to be followed further ({_reason(self._matcher)}).")

    @property
    def is_complete(self) -> bool:
        """Whether the answer may end here."""
        return bool(self._matcher.is_accepting())

    def mask(self) -> Mask:
        """Which tokens may come next, by id, those that end an answer included. Raises BadRequest as `accept` does."""
        if self._mask is None:
            bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            mask = np.unpackbits(bits, count=self._vocabulary.size, bitorder="little").view(np.bool_)
            if self._matcher.is_error():
                if self._matcher.stop_reason() not in ("NoExtension", "NoExtensionBias", "InternalError"):
                    raise BadRequest(f"{self._field} is too complex to be followed ({_reason(self._matcher)}).")
                mask = np.zeros(self._vocabulary.size, np.bool_)
            elif not self.is_complete:
                mask[list(self._vocabulary.ends)] = False
            self._mask = mask
        return self._mask


class _Tokens:
    """What the library wants to know of a tokeniser."""

    def __init__(self, tokens: Sequence[bytes], ends: list[int], special: list[int]) -> None:
        self.tokens = tokens
        self.special_token_ids = special
        self.eos_token_id = ends[0]
        self.bos_token_id = None

    def __call__(self, text: bytes) -> list[int]:
        # Only asked for the tokens of a text that is forced, which grammars here leave to the model.
        return []


def _start_compiling(tokenizer: LLTokenizer, grammar: str, matchers: list[LLMatcher]) -> threading.Thread:
    """The thread that puts the compiled grammar into `matchers`."""
    with _stack_size:
        before = threading.stack_size(_STACK_BYTES)
        try:
            thread = threading.Thread(
                target=lambda: matchers.append(LLMatcher(tokenizer, grammar, log_level=0, limits=_LIMITS)),
                name="grammar",
                daemon=True,
            )
            thread.start()
        finally:
            threading.stack_size(before)
    return thread


def _reason(matcher: LLMatcher) -> str:
    """The library's complaint in one line, without the grammar that it quotes."""
    text = matcher.get_error().split("\n", 1)[0].split("<state>", 1)[0].strip()
    return text[:200].rstrip(".") or str(matcher.stop_reason())
