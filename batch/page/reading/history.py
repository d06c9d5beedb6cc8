"""How many jobs ended on each of the last days, and how long they took: what the status page draws."""

from __future__ import annotations

import time
from typing import NamedTuple

from batch.queue.jobs import Kind
from batch.queue.store import Store

SHOWN_DAYS = 14
_DAY_S = 86400


class Day(NamedTuple):
    """What one model did on a day."""

    date: str
    """As 2026-11-26."""
    done: int
    failed: int
    seconds: float
    """Of work, for the done ones."""


def read_history(store: Store, now: float | None = None) -> dict[Kind, list[Day]]:
    """The last `SHOWN_DAYS` days of each model, today last."""
    noon = (time.time() if now is None else now) // 1
    dates = [time.strftime("%Y-%m-%d", time.localtime(noon - _DAY_S * back)) for back in range(SHOWN_DAYS - 1, -1, -1)]
    rows = store.read("select kind, day, state, n, seconds from daily where day >= ? order by day", (dates[0],))
    counts = {(kind, day, state): (int(n), float(seconds)) for kind, day, state, n, seconds in rows}
    nothing = (0, 0.0)
    return {
        kind: [
            Day(
                date,
                counts.get((kind, date, "done"), nothing)[0],
                counts.get((kind, date, "failed"), nothing)[0],
                counts.get((kind, date, "done"), nothing)[1],
            )
            for date in dates
        ]
        for kind in Kind
    }
