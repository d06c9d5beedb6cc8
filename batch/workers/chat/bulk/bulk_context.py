"""The context of the bulk jobs that are computed together, made when the first one comes."""

from __future__ import annotations

import logging
from typing import Protocol

from batch.errors import ModelProblem
from batch.workers.chat.bulk import speed
from batch.workers.llama.context import Context

_log = logging.getLogger(__name__)


class MakeContext(Protocol):
    """Makes a context on the loaded model; raises ModelProblem when there is not enough memory."""

    def __call__(self, n_ctx: int, sequences: int, *, own_kv: bool) -> Context:
        """For so many tokens: of each sequence with `own_kv`, of all otherwise."""


def make_bulk_context(make: MakeContext, n_ctx: int, width: int, own_tokens: int) -> tuple[Context | None, int]:
    """A context for `width` jobs, each with cells of its own for `own_tokens` unless that is 0, beside one for clients with
    `n_ctx` tokens, and for how many it is: where memory is gone meanwhile, room shrinks before the width. None, 1: for none."""
    own_kv = own_tokens > 0
    while width > 1:
        try:
            tokens = speed.bulk_tokens(n_ctx, width, own_tokens=own_tokens)
            return make(tokens, speed.sequences_for(width), own_kv=own_kv), width
        except ModelProblem as problem:
            if own_tokens > speed.BULK_TOKENS_PER_JOB:
                own_tokens = max(own_tokens // 2, speed.BULK_TOKENS_PER_JOB)
                _log.warning("no bulk job has more than %d tokens of its own: %s", own_tokens, problem.message)
            else:
                width //= 2
                _log.warning("no more than %d bulk jobs are computed together: %s", width, problem.message)
    return None, width
