"""Which decoders this process keeps: what they compute is its own work, and no other program's."""

from __future__ import annotations

running_pids: set[int] = set()
"""Of the processes that were started and not ended; changed from any thread."""
