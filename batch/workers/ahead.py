"""Going ahead of an answer: guessed tokens are put through the model with the last drawn one, in a single pass.

What the sampler then draws at each place decides. While it draws what was guessed, the next logits are there already;
where it draws something else, the rest of the guess is taken back. An answer is the same with and without guesses.
"""

from __future__ import annotations

from collections.abc import Callable

from batch.workers.context import DECODED, Context
from batch.workers.lookup import Lookup
from batch.workers.prompt_cache import Slot

_PAUSE = 8
"""After a text that had to come was spelled in other tokens, so many go by before the next is tried."""
_LATEST = 2048
"""So many of the prompt's last tokens are looked at for a guess."""


class Ahead:
    """One answer's guesses. The slot's cells are the tokens that were drawn; the KV may hold more."""

    def __init__(
        self, context: Context, slot: Slot, decode: Callable[[Slot, Callable[[], int]], None],
        certain: Callable[[], list[int]],
    ) -> None:
        """`decode(slot, attempt)` repeats an attempt until it is in the KV; `certain` gives the tokens that have to come
        next, if there is no choice."""
        self._context, self._slot, self._decode, self._certain = context, slot, decode, certain
        self._lookup = Lookup(t for t in slot.cells.ids[-_LATEST:] if t >= 0)
        self._pass: list[int] = []  # the tokens of the latest pass: one that was drawn, then a guess
        self._begin = 0  # its position
        self._right = 0  # tokens of its guess that were drawn so far
        self._spelled = False  # whether its guess is what had to come, not what came before
        self._pause = 0

    def follow(self, token: int, position: int, most: int) -> int:
        """Take up a token that was drawn, to stand at `position`, with a guess of at most `most` tokens behind it.

        Returns the row of its pass behind which the next token's logits are.
        """
        self._lookup.add(token)
        if self._slot.rolled:
            self._again()
        if self._right + 1 < len(self._pass):
            if token == self._pass[self._right + 1]:
                self._right += 1
                return self._right
            self._context.remove(self._slot.seq, position)
        self._judge()
        self._begin, self._right = position, 0
        self._pass = [token, *self._guess(most)]
        if len(self._pass) > 1:
            self._slot.sure = len(self._slot.cells)
            self._decode(self._slot, self._through)
            return 0
        self._slot.sure = None
        if self._context.step(token, position, self._slot.seq) != DECODED:
            self._decode(self._slot, lambda: self._context.step(token, position, self._slot.seq))
        return -1

    def _judge(self) -> None:
        self._pause -= 1
        if len(self._pass) <= 1:
            return
        if not self._spelled:
            self._lookup.judge(self._right, len(self._pass) - 1)
        elif not self._right:
            self._pause = _PAUSE

    def _guess(self, most: int) -> list[int]:
        if most <= 0:
            return []
        guess = self._lookup.guess(most)
        self._spelled = not guess and self._pause <= 0
        return self._certain()[:most] if self._spelled else guess

    def _through(self) -> int:
        self._slot.rolled = False
        return self._context.decode_all(self._pass, self._begin, self._slot.seq)

    def _again(self) -> None:
        """Another job came in between: the same pass once more, as its logits are gone and its cells may be."""

        def attempt() -> int:
            self._context.remove(self._slot.seq, self._begin)
            return self._through()

        self._decode(self._slot, attempt)
