"""Which scripts an embedding model was trained on, by what its vocabulary holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from batch.media.scripts import script_of
from batch.workers.llama.model import Model

MIN_TOKENS = 1000
"""Of a script that a model knows. English BERTs hold some hundred Chinese characters, and no meaning for them."""
MAX_TOKENS_READ = 1 << 15
"""Of a larger vocabulary every second token, or every third …, is looked at."""


def known_scripts(model: Model) -> list[str]:
    """The scripts whose words a model's vocabulary holds, in alphabetical order."""
    step = max(1, model.n_vocab // MAX_TOKENS_READ)
    pieces = (model.piece(token).decode("utf-8", "replace") for token in range(0, model.n_vocab, step))
    return scripts_of_tokens(pieces, MIN_TOKENS // step)


def scripts_of_tokens(tokens: Iterable[str], min_tokens: int) -> list[str]:
    """The scripts of at least so many tokens, each counted by its first letter."""
    counts = Counter(script for text in tokens if (script := next(filter(None, map(script_of, text)), None)) is not None)
    return sorted(script for script, count in counts.items() if count >= min_tokens)
