"""The models that batch knows by name: where they come from, where they lie, how they are fetched and checked."""

from batch.catalog.entry import Entry, Licence, entries, named, profile
from batch.catalog.fetched import Fetched, look
from batch.catalog.resolved import Resolved, configured, resolve, vad

__all__ = [
    "Entry",
    "Fetched",
    "Licence",
    "Resolved",
    "configured",
    "entries",
    "look",
    "named",
    "profile",
    "resolve",
    "vad",
]
