"""Texts that no cache has seen: made of the same few words, another for every number."""

from __future__ import annotations

import random

WORDS = [
    "river",
    "stone",
    "market",
    "engine",
    "winter",
    "garden",
    "letter",
    "music",
    "doctor",
    "bridge",
    "window",
    "harvest",
    "planet",
    "silver",
    "forest",
    "teacher",
    "captain",
    "coffee",
    "history",
    "mountain",
    "signal",
    "library",
    "summer",
    "village",
    "morning",
    "paper",
]


def prose(seed: int, words: int) -> str:
    """Words in an order that no other seed gives."""
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(words))


def sentence(number: int) -> str:
    """A short one that reads as one."""
    pick = [WORDS[(number * step + step) % len(WORDS)] for step in (1, 3, 7, 11)]
    return f"The {pick[0]} by the {pick[1]} has a {pick[2]} and {number} {pick[3]}s"
