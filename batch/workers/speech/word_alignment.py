"""When each word of a known text was said: the best path through what attention, loudness and the words' lengths say.

A path gives every word a start and an end, in order, with silence allowed between. It costs, by the weights below, for
speech that no word covers and words that cover silence, for words much longer or shorter than their letters, and for
boundaries away from where the model's attention moved on or where its decoder would have put a time stamp. Attention
alone is near the truth mostly (30 to 130 ms), but now and then sticks and jumps, by up to a second; loudness and
lengths are never far off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batch.workers.speech.speech_activity import STEP_S

Costs = NDArray[np.float64]

GAP_COST = 0.2
"""A step of speech that stands between words."""
SILENCE_COST = 0.3
"""A step of silence inside a word."""
LENGTH_COST, LENGTH_SPREAD = 1.2, 0.7
"""Of a word that is longer or shorter than its letters by the factor e to the spread; four times that at twice it."""
START_COST, END_COST, ATTENTION_SPREAD_S, ATTENTION_CAP = 0.6, 0.7, 0.07, 1.7
"""Of a boundary that lies a spread away from the attention's; never more than the cap times it."""
HINT_COST, HINT_SPREAD_S, HINT_CAP, SURE_HINT = 1.3, 0.13, 3.0, 0.12
"""Of a start that lies a spread away from the decoder's time stamp, when it is as probable as a sure one."""

LEAST_WORD_STEPS = 4
MAX_WORD_STEPS = 400
SLOWEST, FASTEST = 15.0, 3.0
"""Steps that a letter may take in the mean."""
LEAST_LETTERS = 1.5
"""What a word of one letter counts for."""
REACH_STEPS = 200
"""Steps of speech before and behind the attention's boundary in which a word is looked for; silence does not count."""
JOINT_COST = 1e4
"""Of a word across a joint: more than anything else together."""

_NEVER = 1e9


@dataclass(frozen=True, slots=True)
class Anchors:
    """What is known of one word; seconds."""

    letters: float
    start: float | None
    """By the model's attention, and not yet without its lag."""
    end: float | None
    hint: float | None
    """Where the decoder would have put a time stamp before the word."""
    hint_probability: float


def align(
    words: Sequence[Anchors], speech: NDArray[np.float32], joints: Sequence[float], lags_s: Sequence[float]
) -> list[tuple[float, float]]:
    """Start and end in seconds of each word, in order, none without length and none across a joint.

    `spoken`: likelihood of speech, one a step; `lags_s`: by how much attention may be late, of which the one that makes
    the cheapest path is taken.
    """
    if not words:
        return []
    if len(speech) < len(words) * LEAST_WORD_STEPS:
        return _evenly(len(words), max(len(speech) * STEP_S, 0.01 * len(words)))
    lags = lags_s if any(word.end is not None for word in words) else (0.0,)
    cost, path = min((_path(words, speech, joints, lag, REACH_STEPS) for lag in lags), key=lambda scored: scored[0])
    if cost >= _NEVER:  # attention stuck, and there is no room for all the words where it did
        _, path = _path(words, speech, joints, lags[0], len(speech))
    return path


def _evenly(count: int, seconds: float) -> list[tuple[float, float]]:
    step = seconds / count
    return [(i * step, (i + 1) * step) for i in range(count)]


def _path(
    words: Sequence[Anchors], speech: NDArray[np.float32], joints: Sequence[float], lag: float, reach: int
) -> tuple[float, list[tuple[float, float]]]:
    """The cheapest path and its cost, _NEVER or more where there is none within reach of the attention."""
    steps = len(speech)
    silence = SILENCE_COST * (1 - speech.astype(np.float64))
    for joint in joints:
        silence[min(steps - 1, max(0, round(joint / STEP_S)))] += JOINT_COST
    silence_before = np.concatenate([[0.0], np.cumsum(silence)])
    spoken_before = np.concatenate([[0.0], np.cumsum(speech.astype(np.float64))])
    speech_before = GAP_COST * spoken_before
    usual = _usual_steps(words, float(speech.sum()))
    times: Costs = np.arange(steps + 1, dtype=np.float64) * STEP_S
    between = speech_before.copy()  # cost of a path that ends a step before this one, with silence behind its last word
    lengths: list[NDArray[np.int64]] = []
    ends: list[NDArray[np.int64]] = []
    for i, word in enumerate(words):
        room = (i * LEAST_WORD_STEPS, steps - (len(words) - i) * LEAST_WORD_STEPS)
        start_cost = between + _start_cost(word, times, lag)
        start_cost[: room[0]] = _NEVER
        start_cost[room[1] + 1 :] = _NEVER
        low, high = room[0] + LEAST_WORD_STEPS, room[1] + LEAST_WORD_STEPS
        if word.end is not None:
            middle = spoken_before[min(steps, max(0, round((word.end - lag) / STEP_S)))]
            first, last = np.searchsorted(spoken_before, (middle - reach, middle + reach + 1))
            low, high = min(max(low, int(first)), high), max(min(high, int(last)), low)
        length, end_cost = _best_lengths(start_cost - silence_before, usual[i], low, high)
        end_cost += silence_before
        if word.end is not None:
            end_cost += END_COST * np.minimum(np.abs(times - (word.end - lag)) / ATTENTION_SPREAD_S, ATTENTION_CAP)
        ended = end_cost - speech_before
        # the end of the word that a path which stands here has behind it
        best = np.minimum.accumulate(ended)
        at = np.maximum.accumulate(np.where(ended <= best, np.arange(steps + 1), 0))
        between = best + speech_before
        lengths.append(length)
        ends.append(at)
    place, path = steps, []
    for length, at in zip(reversed(lengths), reversed(ends), strict=True):
        end = int(at[place])
        place = end - int(length[end])
        path.append((place * STEP_S, end * STEP_S))
    return float(between[-1]), path[::-1]


def _usual_steps(words: Sequence[Anchors], spoken_steps: float) -> NDArray[np.float64]:
    """Steps that each word takes at this recording's pace."""
    letters = np.array([max(LEAST_LETTERS, word.letters + 0.5) for word in words])
    pace = min(SLOWEST, max(FASTEST, spoken_steps / float(letters.sum())))
    return np.maximum(letters * pace, 1.5 * LEAST_WORD_STEPS)


def _start_cost(word: Anchors, times: Costs, lag: float) -> Costs:
    """Cost of starting at each step."""
    cost = np.zeros(len(times))
    if word.start is not None:
        cost += START_COST * np.minimum(np.abs(times - (word.start - lag)) / ATTENTION_SPREAD_S, ATTENTION_CAP)
    if word.hint is not None:
        sureness = min(1.0, word.hint_probability / SURE_HINT)
        cost += HINT_COST * sureness * np.minimum(np.abs(times - word.hint) / HINT_SPREAD_S, HINT_CAP)
    return cost


def _best_lengths(start_cost: Costs, usual: float, low: int, high: int) -> tuple[NDArray[np.int64], Costs]:
    """For each step from `low` to `high`: the length that a word which ends there best has, and the cost of that."""
    steps = len(start_cost)
    longest = int(min(MAX_WORD_STEPS, max(60.0, 3 * usual), steps - 1))
    candidates = np.arange(LEAST_WORD_STEPS, longest + 1)
    length_cost = LENGTH_COST * np.square(np.log(candidates / usual) / LENGTH_SPREAD)
    padded = np.concatenate([np.full(longest, _NEVER), start_cost])
    # row r of the window holds the costs of starting longest, …, LEAST_WORD_STEPS steps before step r
    windows = np.lib.stride_tricks.sliding_window_view(padded, longest + 1)[low : high + 1, : longest + 1 - LEAST_WORD_STEPS]
    total = windows + length_cost[::-1]
    choice = np.argmin(total, axis=1)
    length = np.zeros(steps, np.int64)
    cost = np.full(steps, _NEVER)
    length[low : high + 1] = longest - choice
    cost[low : high + 1] = total[np.arange(len(choice)), choice]
    return length, cost
