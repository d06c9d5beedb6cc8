"""What keeps going wrong with one batch, through no fault of its client: tried again after growing pauses, then given up."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection

import msgspec

from batch.batches.rows import BatchLine, BatchStatus

logger = logging.getLogger("batch.batches")

PAUSES_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Between the tries of a batch's next step: about nine minutes, in which a disk or a file may come back."""
LINE_PAUSES_S = (1.0, 2.0, 5.0)
"""Between those of one line, which the others of its batch wait for."""


class LineFault(Exception):
    """The service made a mistake with one line; its cause says which."""

    def __init__(self, line: BatchLine) -> None:
        super().__init__(line.custom_id)
        self.line = line


class _Stumble(msgspec.Struct):
    status: BatchStatus
    """The batch's, when it stumbled."""
    tries: int = 0
    next_try_at: float = 0.0
    """By the monotonic clock."""
    complaint: str = ""
    """What was logged last."""


class Stumbles:
    """How often the next step of each batch has failed in a row."""

    def __init__(self) -> None:
        self._by_batch: dict[str, _Stumble] = {}

    def is_pausing(self, batch: str, status: BatchStatus) -> bool:
        """Whether a batch is not to be tried now. One that was cancelled meanwhile is: its next step is another."""
        stumble = self._by_batch.get(batch)
        if stumble is not None and stumble.status is not status:
            self.clear(batch)
            return False
        return stumble is not None and stumble.next_try_at > time.monotonic()

    def is_final(self, batch: str, status: BatchStatus, error: Exception) -> bool:
        """Note that a batch's next step failed; whether it has been tried often enough, so that it is to be given up."""
        stumble = self._by_batch.setdefault(batch, _Stumble(status))
        cause = error.__cause__ if isinstance(error, LineFault) else error
        if stumble.complaint != (complaint := f"{type(cause).__name__}: {cause}"):
            logger.error("the batch %s stumbled, and is tried again: %s", batch, complaint, exc_info=error)
            stumble.complaint = complaint
        pauses_s = LINE_PAUSES_S if isinstance(error, LineFault) else PAUSES_S
        if stumble.tries >= len(pauses_s):
            self.clear(batch)
            return True
        stumble.next_try_at = time.monotonic() + pauses_s[stumble.tries]
        stumble.tries += 1
        return False

    def clear(self, batch: str) -> None:
        """A batch's step went well."""
        self._by_batch.pop(batch, None)

    def keep(self, live: Collection[str]) -> None:
        """Forget all batches but these."""
        for batch in self._by_batch.keys() - set(live):
            self.clear(batch)
