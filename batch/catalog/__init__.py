"""The models that batch knows by name: where they come from, where they lie, how they are fetched and checked."""

from batch.catalog.entry import Entry, Licence, entries, find_entry, profile
from batch.catalog.fetched import Fetched, look
from batch.catalog.resolved import Resolved, configured, resolve, vad

__all__ = [
    "Entry",
    "Fetched",
    "Licence",
    "Resolved",
    "configured",
    "entries",
    "find_entry",
    "look",
    "profile",
    "resolve",
    "vad",
]
