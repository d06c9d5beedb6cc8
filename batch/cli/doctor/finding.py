"""What a check of `batch doctor` says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    state: str
    remedy: str = ""
    """What to do about it; empty when all is well."""
