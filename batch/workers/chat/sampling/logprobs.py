"""Log probabilities of the tokens that the content is made of, in OpenAI's shape."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from batch.payloads.chat import TokenLogprob, TopLogprob
from batch.workers.llama.model import Model

LOWEST_LOGPROB = -3.4028234663852886e38
"""What llama-server writes for minus infinity, which JSON does not have."""


def token_logprob(model: Model, logits: np.ndarray[Any, np.dtype[np.float32]], token: int, top: int) -> TokenLogprob:
    """The log probability of a token before sampling, and those of the `top` likeliest. `logits` is (n_vocab,)."""
    peak = float(logits.max())
    total = peak + float(np.log(np.exp(logits - peak, dtype=np.float64).sum()))
    ids = np.empty(0, np.intp)
    if top > 0:
        ids = np.argpartition(logits, -top)[-top:] if top < len(logits) else np.arange(len(logits))
        ids = ids[np.argsort(-logits[ids], kind="stable")]
    return make_token_logprob(model, token, float(logits[token]) - total, [(int(t), float(logits[t]) - total) for t in ids])


def make_token_logprob(model: Model, token: int, logprob: float, likeliest: list[tuple[int, float]]) -> TokenLogprob:
    """The same from numbers: a token's log probability, and the likeliest tokens with theirs."""
    tops = []
    for other, other_logprob in likeliest:
        piece = model.piece(other)
        tops.append(TopLogprob(id=other, token=_text(piece), bytes=list(piece), logprob=max(other_logprob, LOWEST_LOGPROB)))
    piece = model.piece(token)
    return TokenLogprob(
        id=token, token=_text(piece), bytes=list(piece), logprob=max(logprob, LOWEST_LOGPROB), top_logprobs=tops
    )


def _text(piece: bytes) -> str:
    return piece.decode("utf-8", "ignore")


@dataclass(slots=True, eq=False)
class _DrawnToken:
    logprob: TokenLogprob
    unread: bytes
    """Bytes that the parser may still turn into something."""
    content: bytes = b""
    end: int = 0
    """Bytes of the content up to and with this token's."""


class ContentLogprobs:
    """Lines up log probabilities with the content: joined, the tokens' texts are the content.

    Tokens of thinking, of calls and of markers are left out; one that is content in part is cut to that part.
    """

    def __init__(self) -> None:
        self._tokens: deque[_DrawnToken] = deque()
        self._content_bytes = 0

    def add(self, logprob: TokenLogprob, piece: bytes) -> None:
        """A token was drawn, whose bytes the parser is about to read."""
        self._tokens.append(_DrawnToken(logprob, piece))

    def read(self, text: str, *, is_content: bool) -> None:
        """The parser has turned bytes of the tokens so far into this text of the content or of the thinking."""
        data = text.encode("utf-8", "replace")
        unread = b"".join(token.unread for token in self._tokens)
        # Markers stand before the content that they announce, never behind it: so the last place is the right one.
        start = unread.rfind(data) if is_content else unread.find(data)
        is_verbatim = start >= 0
        if is_verbatim:
            stop = start + len(data)
        else:  # bytes that are no text became replacement characters: all tokens count, as wholes
            start, stop = 0, len(unread)
        at = 0
        for token in self._tokens:
            if at >= stop:
                break
            end = at + len(token.unread)
            read = token.unread[max(0, start - at) : stop - at]
            token.unread = token.unread[stop - at :]
            if is_content and read:
                token.content += read
                token.end = self._content_bytes + (min(stop, end) - start if is_verbatim else len(data))
            at = end
        if is_content:
            self._content_bytes += len(data)
        self._drop_other()

    def skip(self) -> None:
        """All bytes so far have become something else: a call."""
        for token in self._tokens:
            token.unread = b""
        self._drop_other()

    def _drop_other(self) -> None:
        while self._tokens and not self._tokens[0].unread and not self._tokens[0].content:
            self._tokens.popleft()

    def take(self, content_bytes: int, *, is_last: bool = False) -> list[TokenLogprob]:
        """Log probabilities that are complete once `content_bytes` of the content are shown; `is_last`: no more comes."""
        ready: list[TokenLogprob] = []
        while self._tokens:
            token = self._tokens[0]
            if not is_last and (token.unread or token.end > content_bytes):
                break
            self._tokens.popleft()
            excess = max(0, token.end - content_bytes)
            content = token.content[: max(0, len(token.content) - excess)]
            if content:
                ready.append(_cut(token.logprob, content))
        return ready


def _cut(logprob: TokenLogprob, content: bytes) -> TokenLogprob:
    if len(content) == len(logprob.bytes):
        return logprob
    return msgspec.structs.replace(logprob, token=_text(content), bytes=list(content))
