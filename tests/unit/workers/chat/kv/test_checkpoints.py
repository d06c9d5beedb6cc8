"""Where checkpoints stand, and which go first."""

from __future__ import annotations

import numpy as np

from batch.workers.chat.images.image_chunk import ImageChunk
from batch.workers.chat.kv.checkpoints import Checkpoint, Checkpoints, checkpoint_positions
from batch.workers.chat.kv.token_sequence import TokenSequence

OPEN, CLOSE = 1, 2
"""Control tokens around a turn."""


def turn(text_tokens: int) -> list[int]:
    return [OPEN, *[7] * text_tokens, CLOSE]


def state(size: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.zeros(size, np.uint8)


def test_a_checkpoint_stands_where_the_last_question_begins() -> None:
    prompt = TokenSequence([*turn(2000), *turn(30), OPEN, 7, 7])
    assert 2002 in checkpoint_positions(prompt, {OPEN, CLOSE}) or 2001 in checkpoint_positions(prompt, {OPEN, CLOSE})
    assert len(prompt) - 4 in checkpoint_positions(prompt, ())


def test_a_short_prompt_has_none_and_a_long_one_few() -> None:
    assert checkpoint_positions(TokenSequence(turn(200)), {OPEN, CLOSE}) == []
    many = TokenSequence([t for _ in range(500) for t in turn(20)])
    assert len(checkpoint_positions(many, {OPEN, CLOSE})) <= 8


def test_where_an_earlier_prompt_parted_stands_a_checkpoint() -> None:
    assert 700 in checkpoint_positions(TokenSequence([7] * 2000), (), [700])


def test_no_checkpoint_cuts_a_picture() -> None:
    prompt = TokenSequence([7] * 900)
    prompt.append_chunk(ImageChunk(-1, 300, 300, None))
    prompt.append_tokens([7] * 10)
    assert all(prompt.uncut(at) == at for at in checkpoint_positions(prompt, (), [950]))


def test_too_many_bytes_thin_out_the_old_ones_and_keep_the_last() -> None:
    checkpoints = Checkpoints(10 * 100)
    for n in range(512, 512 * 41, 512):
        checkpoints.add(Checkpoint(n, state(100)))
    kept = [n for n in range(512, 512 * 41, 512) if checkpoints.has(n)]
    assert checkpoints.size <= 1000 and len(kept) == 10
    assert kept[-4:] == [512 * i for i in (37, 38, 39, 40)]
    assert kept[0] < 512 * 12, "the old ones are spread over the whole length"


def test_the_last_before_is_found_and_truncating_drops_what_follows() -> None:
    checkpoints = Checkpoints(1000, [Checkpoint(n, state(1)) for n in (300, 600, 900)])
    last = checkpoints.last_before(899)
    assert last is not None and last.n == 600
    assert checkpoints.last_before(299) is None
    copy = checkpoints.copy()
    checkpoints.truncate(600)
    assert checkpoints.newest == 600 and copy.newest == 900
