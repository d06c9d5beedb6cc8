"""Fail points: places between two steps of a job's way where a test has this very process killed, once.

Only a test's `fail_at` setting arms one; otherwise `reach` is one comparison.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

POINTS = (
    "spooled",
    "committed",
    "claimed",
    "computed",
    "ended",
    "outbox-temporary",
    "outbox-parts",
    "outbox-json",
    "source-moved",
    "outbox-noted",
)
"""In the order in which a dropped file passes them."""
TOLD = "told"
"""Of a job whose client has its result before it is written down: between "computed" and "ended"."""
MOVE_POINTS = ("move-payloads", "move-rows", "move-verified", "move-committed", "move-switched", "move-aside")
"""In the order in which `batch move-to` passes them."""

_armed = ""
_marker = Path()


def arm(point: str, folder: Path) -> None:
    """Kill this process when it reaches `point`, unless one of this home has been killed there before."""
    global _armed, _marker
    _armed, _marker = point, folder / f"failed-at-{point}"


def reach(point: str) -> None:
    if point == _armed:
        _fail()


def _fail() -> None:
    try:
        os.close(os.open(_marker, os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
