"""The tables of a search index by their names: the one that answers, and the one that is being made beside it."""

from __future__ import annotations

from typing import NamedTuple

SHADOW_PREFIX = "_reindex_"
"""Names that begin with an underscore are left out of copies and repairs of the database."""


class IndexTables(NamedTuple):
    """What each table of an index is called."""

    entry: str = "entry"
    entry_source: str = "entry_source"
    passage: str = "passage"
    passage_fts: str = "passage_fts"
    vector: str = "vector"


LIVE = IndexTables()
"""Of the index that answers."""
SHADOW = IndexTables(*(SHADOW_PREFIX + name for name in LIVE))
"""Of the index that a rebuild makes."""
