"""Reciprocal Rank Fusion: two lists of contents become one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import msgspec

from batch.media.scripts import script_of
from batch.search.index.reader import TextMatches
from batch.search.index.vector_index import VectorHit

RANK_CONSTANT = 60
LIST_LENGTH = 200
"""Contents of each list that take part."""
FOREIGN_SCRIPT_WEIGHT = 2.0
"""Of the text list, for a query in a script that the embedding model does not know."""


def is_foreign_script(text: str, known_scripts: Collection[str]) -> bool:
    """Whether most letters of a text are of scripts that a model does not know; False where that is not known of the model."""
    scripts = [script for script in map(script_of, text) if script is not None]
    return bool(known_scripts) and 2 * sum(script not in known_scripts for script in scripts) > len(scripts)


class RankedEntry(msgspec.Struct):
    """A content in the joined list."""

    entry: int
    text_rank: int | None = None
    text_passages: list[int] = msgspec.field(default_factory=list)
    """The best first."""
    vector_rank: int | None = None
    vector_passages: list[int] = msgspec.field(default_factory=list)
    similarity: float | None = None

    def score(self, text_weight: float) -> float:
        """What the entry has earned in both lists."""
        text = text_weight / (RANK_CONSTANT + self.text_rank) if self.text_rank else 0.0
        return text + (1.0 / (RANK_CONSTANT + self.vector_rank) if self.vector_rank else 0.0)


def join_lists(matches: TextMatches | None, nearest: Sequence[VectorHit]) -> dict[int, RankedEntry]:
    """The contents of both lists by id, each with its ranks and its passages in them."""
    entries: dict[int, RankedEntry] = {}
    rank = 0
    for passage, entry in matches.passages if matches else ():
        ranked_entry = entries.get(entry)
        if ranked_entry is None:
            if rank == LIST_LENGTH:
                continue
            rank += 1
            ranked_entry = entries[entry] = RankedEntry(entry, text_rank=rank)
        ranked_entry.text_passages.append(passage)
    rank = 0
    for hit in nearest:
        ranked_entry = entries.setdefault(hit.entry, RankedEntry(hit.entry))
        if ranked_entry.vector_rank is None:
            rank += 1
            ranked_entry.vector_rank, ranked_entry.similarity = rank, hit.similarity
        ranked_entry.vector_passages.append(hit.passage)
    return entries


def best_first(
    entries: Iterable[RankedEntry], created: dict[int, float], text_weight: float
) -> list[tuple[float, RankedEntry]]:
    """(score, entry), ties by newest; what is not in `created` has gone meanwhile and is left out."""
    scored = [(entry.score(text_weight), entry) for entry in entries if entry.entry in created]
    return sorted(scored, key=lambda pair: (-pair[0], -created[pair[1].entry], -pair[1].entry))
