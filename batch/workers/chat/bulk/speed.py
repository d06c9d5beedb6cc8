"""How many bulk jobs to compute together and how long their prompt slices are, as measured when the model is loaded."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from batch.memory.plan import MODEST_WIDTH
from batch.memory.sizes import KvType
from batch.queue.jobs import Priority
from batch.workers.llama.context import Context
from batch.workers.llama.model import Model

WIDTHS = (1, 4, 8, 16, 32)
"""Sequences in one decode that are tried. llama.cpp computes rows by fours on many processors."""
GPU_WIDTHS = (1, 8, 16, 32, 64)
"""The same on a GPU, which one row leaves idle for most of a step."""
MAX_SHARED_WIDTH = 32
"""More are computed together only where each has cells of its own, as all would pass over all others'."""
MIN_OWN_GPU_WIDTH = 32
"""Fewer than so many with cells of their own a GPU computes more slowly than MAX_SHARED_WIDTH without, which take about as much
memory: an H100 958, 1,707 and 2,801 tokens a second of E4B's shape with 8, 16 and 32 that are empty yet."""
MAX_STEP_S = 1.0
"""Longest step of the jobs together: a more urgent job waits for it."""
MAX_WIDE_STEP_S = 0.25
"""Longest step of more than MODEST_WIDTH jobs on a CPU."""
BULK_TOKENS_PER_JOB = 4096
"""Tokens that the context of bulk jobs holds for each job: those that take more wait for one another, or, where each has cells
of its own, are computed by themselves."""
LARGE_OWN_ROOMS = (6_144, 8_192, 12_288, 16_384)
"""So many instead, the most for which there is memory, where each has cells of its own on a GPU: a model that thinks writes
long answers, and by itself each would be computed several times as slowly. On a CPU one long job would make the steps of all
longer."""
_ANSWER_SHARE = 4
"""One in so many of its own cells an answer is expected to take at most, as bounds are set far above that; the job goes on by
itself if it takes more."""
SLICE_S = 0.25
"""About how long a prompt slice of a bulk job takes."""
SLICE_TOKENS = (512, 256, 128, 64, 32, 16)
MIN_STEP_ROWS = 32
"""So many rows a slow model may compute in one decode too, if they are of several jobs or of a picture: 16 take much more than
half as long, and a few more than 16 are dear."""
_MIN_SLICE_TOKENS = ((0.5, 128), (1.0, 64), (2.0, 32), (float("inf"), 16))
"""(billions of parameters below which, shortest slice): so that a busy moment at load costs no speed for ever."""
_MIN_WIDTHS = ((0.5, 16), (1.0, 8), (2.0, 4), (float("inf"), 1))
"""(billions of parameters below which, fewest jobs together): the same for the width, which small models gain by anywhere."""
_REPEATED_BELOW_S = 0.1
"""A step that is shorter is timed again, and the best counts."""
_MAX_REPEATS = 3
_MIN_SPEED_UP = 1.05
"""A wider batch must be so many times faster than a narrower one, with what is around its tokens."""
_DOUBT = 0.2
"""A speed-up that is no further from that is measured again, as other programs may have slowed down either step."""
_AROUND_TOKEN_S = 0.0003
"""What a token of a bulk job takes beside its decode, drawing, text and its share of the job, which no width saves: about half
of a caption's token of the smallest model through the service, on two cores of 2026. A GPU computes meanwhile."""
_PROBE_TOKENS = 32
_PROBE_CELLS = 1024
_OWN_PROBE_CELLS = 256
MAX_JOINT_TOKENS = 63
"""From 64 rows on, llama.cpp's attention on a CPU computes tiles of them, and rounds otherwise than by single rows."""
MIN_JOINT_TOKENS = 8
"""Shorter slices share no decode: kernels for K-quants compute from eight rows on otherwise than fewer."""
_SHORT_PROBES = 3
_ROWS_TOGETHER = 4
"""Many kernels compute so many rows at a time, and what is left of a multiple of them in another way."""


@dataclass(frozen=True, slots=True)
class BulkSpeed:
    """What bulk jobs are computed with, for the life of the process, so that their tokens stay reproducible."""

    width: int
    """Most jobs computed together."""
    slice_tokens: int
    """Most prompt tokens in one step."""
    company_matters: bool = False
    """Whether a token's numbers, in the last bits, are other ones among so many jobs than among few."""
    joint_prompt_tokens: int = 0
    """How many prompt tokens of several jobs may share a decode, their numbers the same in the last bit as alone."""
    joint_multiple: int = 1
    """Of what number of tokens a slice is a multiple behind which there is another one's in such a decode."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Tokens a second by number of sequences, where that was measured."""
    own_kv: bool = False
    """Whether each job has cells of its own in the KV, so that attention passes over nobody else's: where there is memory for
    that and, on a CPU, no slice shares a decode with tokens, which could not be computed at once then."""

    @property
    def mixed_prompt_tokens(self) -> int:
        """How many prompt tokens may share a decode with tokens that are generated, on a CPU: there the decode of a slice takes
        longer in company, and it is done only where computing it alone would not make a job's numbers independent of its
        company either."""
        return self.slice_tokens if self.company_matters else 0

    @property
    def picture_slice_tokens(self) -> int:
        """Most tokens of a picture that go into the KV in one step, where the model attends to them as to text."""
        return max(self.slice_tokens, MIN_STEP_ROWS)


CLIENT_SEQUENCES = len(Priority)
"""Of the context for clients: a job of each priority may wait inside the one of the next higher."""


def sequences_for(width: int) -> int:
    """How many sequences the context of bulk jobs needs: batch lines run inside files of the inbox, and the answers that a
    client fetches later inside both, one at a time if need be."""
    return 2 * width + 1


def own_rooms(n_ctx: int, *, has_gpu: bool) -> list[int]:
    """For how many tokens each bulk job may have cells of its own, fewest first, beside a context for clients with `n_ctx`."""
    large = LARGE_OWN_ROOMS if has_gpu else ()
    return sorted({min(n_ctx, room) for room in (BULK_TOKENS_PER_JOB, *large)})


def bulk_tokens(n_ctx: int, width: int, *, own_tokens: int = 0) -> int:
    """How many tokens the context of so many bulk jobs holds beside a context for clients with `n_ctx`: for each of them where
    each has cells of its own for `own_tokens`, and for all otherwise."""
    return min(n_ctx, own_tokens or width * BULK_TOKENS_PER_JOB)


def expected_tokens(n_ctx: int, max_tokens: int, *, own_kv: bool) -> int:
    """For how much of an answer a context with `n_ctx` tokens has to have room; `max_tokens`: its bound, negative: none."""
    if not own_kv:
        return max_tokens if max_tokens >= 0 else BULK_TOKENS_PER_JOB
    most = n_ctx // _ANSWER_SHARE
    return min(max_tokens, most) if max_tokens >= 0 else most


def measure_bulk_speed(
    model: Model,
    threads: int,
    *,
    width: int | None = None,
    widest: int = sys.maxsize,
    kv_type: KvType = "f16",
    own_kv: bool = False,
    has_gpu: bool = False,
) -> BulkSpeed:
    """Measure a model on this machine; `width`: the number of jobs is set and not measured; `widest`: there is no memory for
    more; `own_kv`: there is for cells of each job's own. Takes a few steps."""
    own_kv = own_kv and not model.is_recurrent
    widths = [n for n in (GPU_WIDTHS if has_gpu else WIDTHS) if own_kv or n <= MAX_SHARED_WIDTH]
    most = max(n for n in widths if n <= widest)
    n_ctx = _OWN_PROBE_CELLS if own_kv else _PROBE_CELLS
    sizes = {"n_ctx": n_ctx, "n_batch": 512, "n_ubatch": 512, "sequences": max(most, width or 1)}
    context = Context(model, **sizes, threads=threads, kv_type=kv_type, own_kv=own_kv)
    try:
        slice_tokens = _measure_slice(model, context)
        rates = dict[int, float]()
        if width is None:
            width, rates = _best_width(model, context, [n for n in widths if n <= most], has_gpu=has_gpu)
        company_matters = _company_matters(model, context, width)
        joint = (0, 1) if company_matters or has_gpu else _joint_prompt_tokens(model, context, slice_tokens, own_kv=own_kv)
    finally:
        context.close()
    rounded = {str(n): round(rate, 1) for n, rate in rates.items()}
    return BulkSpeed(
        width, slice_tokens, company_matters, *joint, rates=rounded, own_kv=own_kv and (has_gpu or not company_matters)
    )


def _best_width(model: Model, context: Context, widths: Sequence[int], *, has_gpu: bool) -> tuple[int, dict[int, float]]:
    """Of these, and tokens a second by width."""
    steps = dict[int, float]()
    for n in widths:
        if n > MODEST_WIDTH and max(steps.values()) > _max_step_s(n, has_gpu=has_gpu):
            break  # a wider step takes no less
        steps[n] = _measure_step(model, context, n)
    around = 0.0 if has_gpu else _AROUND_TOKEN_S

    def speed_up(n: int) -> float:
        """How many times as fast n jobs together are as the best until now."""
        return (steps[best] / best + around) / (steps[n] / n + around)

    best = max(n for n in steps if n <= _of_size(_MIN_WIDTHS, model))
    for n in [n for n in steps if n > best]:
        if steps[n] > _max_step_s(n, has_gpu=has_gpu):
            continue
        if abs(speed_up(n) - _MIN_SPEED_UP) < _DOUBT:
            for again in (best, n, best, n):
                steps[again] = min(steps[again], _measure_step(model, context, again))
        if speed_up(n) > _MIN_SPEED_UP:
            best = n
    return best, {n: n / seconds for n, seconds in steps.items()}


def _measure_slice(model: Model, context: Context) -> int:
    tokens = [max(model.bos, 0)] * _PROBE_TOKENS

    def decode(repeat: int) -> None:
        context.decode_tokens(tokens, repeat * _PROBE_TOKENS, 0, output=True)
        _ = context.logits()  # on a GPU the call returns before the work is done

    decode(0)  # what is read for the first time takes longer
    per_token = _best_of(lambda repeat: decode(repeat + 1)) / _PROBE_TOKENS
    context.forget(0)
    least = _of_size(_MIN_SLICE_TOKENS, model)
    return next((n for n in SLICE_TOKENS if n * per_token <= SLICE_S or n <= least), SLICE_TOKENS[-1])


def _of_size(by_billions: Sequence[tuple[float, int]], model: Model) -> int:
    """What is given for models below so many billions of parameters."""
    return next(n for billions, n in by_billions if model.n_params / 1e9 < billions)


def _max_step_s(n: int, *, has_gpu: bool) -> float:
    """Longest step of n jobs together."""
    return MAX_STEP_S if has_gpu or n <= MODEST_WIDTH else MAX_WIDE_STEP_S


def _measure_step(model: Model, context: Context, n: int) -> float:
    """Seconds of one token for each of n sequences."""
    tokens, sequences = _various_tokens(model, n), list(range(n))

    def decode(repeat: int) -> None:
        context.decode_rows(tokens, [repeat] * n, sequences)
        _ = context.logits(0)

    # A wide one is nearly as long as it may be: one busy moment must not decide against it.
    seconds = _best_of(decode, MAX_WIDE_STEP_S if n > MODEST_WIDTH else _REPEATED_BELOW_S)
    for seq in sequences:
        context.forget(seq)
    return seconds


def _company_matters(model: Model, context: Context, n: int) -> bool:
    """Whether one token's logits are other ones where n sequences decode theirs together than where fewer do: llama.cpp's
    kernels for repacked weights compute four rows at a time, and round otherwise than those for one row."""
    tokens, sequences = [max(model.bos, 0)] * n, list(range(n))
    rows = []
    for count in (min(2, n), n):
        context.decode_rows(tokens[:count], [0] * count, sequences[:count])
        rows += [context.logits(row).copy() for row in range(count)]
        for seq in sequences:
            context.forget(seq)
    return not all(np.array_equal(rows[0], row) for row in rows)


def _joint_prompt_tokens(model: Model, context: Context, slice_tokens: int, *, own_kv: bool = False) -> tuple[int, int]:
    """How many prompt tokens of several jobs may share a decode, none where their logits are other ones then; and the multiple
    that those before the last must be."""
    most = min(slice_tokens, MAX_JOINT_TOKENS)
    for multiple, length in ((1, MIN_JOINT_TOKENS + 1), (_ROWS_TOGETHER, MIN_JOINT_TOKENS)):
        lengths = [length] * min(most // length, _SHORT_PROBES)
        if not own_kv and (rest := most - sum(lengths)) >= length:
            lengths.append(rest)
        lengths = lengths[: context.sequences]
        if len(lengths) > 1 and _can_join(model, context, lengths):
            return most, multiple
    return 0, 1


def _can_join(model: Model, context: Context, lengths: Sequence[int]) -> bool:
    """Whether slices of so many tokens have the same logits in one decode as one after the other."""
    numbers = _various_tokens(model, sum(lengths))
    ends = list(accumulate(lengths))
    parts = [(numbers[end - length : end], 0, seq, True) for seq, (end, length) in enumerate(zip(ends, lengths, strict=True))]
    alone = []
    for part in parts:
        context.decode_parts([part])
        alone.append(context.logits(len(part[0]) - 1).copy())
    for seq in range(len(parts)):
        context.forget(seq)
    context.decode_parts(parts)
    is_same = all(np.array_equal(context.logits(end - 1), logits) for end, logits in zip(ends, alone, strict=True))
    for seq in range(len(parts)):
        context.forget(seq)
    return is_same


def _various_tokens(model: Model, n: int) -> list[int]:
    """So many, of which hardly two have rows or experts alike."""
    return [number * 7919 % model.n_vocab for number in range(n)]


def _best_of(decode: Callable[[int], None], repeated_below_s: float = _REPEATED_BELOW_S) -> float:
    best = float("inf")
    for repeat in range(_MAX_REPEATS):
        started = time.perf_counter()
        decode(repeat)
        best = min(best, time.perf_counter() - started)
        if best > repeated_below_s:
            break
    return best
