"""What goes wrong in Postgres as errors that say what to do."""

from __future__ import annotations

import psycopg

from batch.errors import DiskFull, SettingsProblem
from batch.queue.store import DamagedDatabase, EmptyDatabase, StoreAway

_AWAY_CLASSES = ("08", "57P0", "53")
"""Connection exceptions, a server that stops or starts, and one that has no more connections or memory."""
_AWAY_STATES = frozenset({"25006", "25P03", "40001", "40P01", "55P03"})
"""A standby that takes no writes (yet), a transaction that was left alone for too long, and transactions that stood in one
another's way: the same again may do."""


def to_batch_error(error: psycopg.Error) -> Exception:
    """The error that a caller of the store meets; one that only a fault of ours explains stays as it is."""
    state = error.sqlstate or ""
    if state == "53100":
        return DiskFull("The database's disk is full: free some space on its machine and try again.")
    if state in ("XX001", "XX002"):
        return DamagedDatabase(
            f"The database is damaged ({_first_line(error)}): restore it from your newest pg_dump or backup."
        )
    if state == "42501":
        return SettingsProblem(
            f"The role of the database's address may not do that ({_first_line(error)}): its owner gives it its rights by "
            "`batch database grant`; what changes tables is the owner's to do."
        )
    if state == "42P01":
        return EmptyDatabase()
    if state.startswith(_AWAY_CLASSES) or state in _AWAY_STATES:
        return StoreAway(f"The database cannot be used now ({_first_line(error)}): try again soon.")
    if isinstance(error, psycopg.OperationalError) and (not state or state.startswith("28") or state == "3D000"):
        return StoreAway(f"The database cannot be reached ({_first_line(error)}): try again soon.")
    return error


def is_connection_lost(error: psycopg.Error) -> bool:
    """Whether the statement may never have been carried out, as the connection was gone."""
    state = error.sqlstate or ""
    return isinstance(error, psycopg.OperationalError) and (not state or state.startswith(("08", "57P0", "25P03")))


def _first_line(error: psycopg.Error) -> str:
    return " ".join(str(error).split("\n")[0].split())[:300] or type(error).__name__
