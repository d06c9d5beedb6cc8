"""Pages of a table whose rows have an id for clients, a sequence of their own, and a time from when on they count as gone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from batch.errors import BadRequest
from batch.queue.store import Store


@dataclass(frozen=True, slots=True)
class ExpiringRows:
    """The table `name`, with columns id, sequence and expires_at beside the `columns` that are read."""

    name: str
    columns: str
    noun: str
    """What clients call a row."""

    def page(
        self,
        store: Store,
        conditions: Sequence[str],
        parameters: Sequence[Any],
        *,
        after: str | None,
        limit: int,
        ascending: bool,
    ) -> tuple[list[tuple[Any, ...]], bool]:
        """The rows that fulfil all conditions behind the one with the id `after`, newest first unless `ascending`, and whether
        more follow. Raises BadRequest naming `after`."""
        where = ["(expires_at is null or expires_at > ?)", *conditions]
        values = [int(time.time()), *parameters]
        if after is not None:
            places = store.read(f"select sequence from {self.name} where id=?", (after,))
            if not places:
                raise BadRequest(f"'after': no such {self.noun}: {after[:100]}", param="after")
            where.append("sequence > ?" if ascending else "sequence < ?")
            values.append(places[0][0])
        order = "asc" if ascending else "desc"
        rows = store.read(
            f"select {self.columns} from {self.name} where {' and '.join(where)} order by sequence {order} limit ?",
            (*values, limit + 1),
        )
        return rows[:limit], len(rows) > limit
