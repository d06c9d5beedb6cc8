"""A Work for engine tests: one thread, everything recorded, and a script of what happens at which unit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from batch.payloads.job_payload import Payload
from batch.payloads.json_text import encode
from batch.queue.jobs import Job, Kind, Origin, Priority, State, new_id


class ScriptedWork:
    """What workers/engine.py calls Work. `at` maps a unit's number (from 1) to a callback run inside that unit."""

    def __init__(
        self,
        folder: Path,
        kind: Kind,
        task: str,
        request: Mapping[str, Any] | Payload,
        *,
        at: Mapping[int, Callable[[], object]] | None = None,
        mates: Sequence[ScriptedWork] = (),
        checkpoints: Sequence[Any] = (),
        watched: bool = True,
        threads: int = 1,
        priority: Priority = Priority.INTERACTIVE,
    ) -> None:
        self.folder = folder
        self.job = Job(new_id(), kind, task, State.RUNNING, Origin.HTTP, priority, encode(request).decode(), 0.0)
        self.payload = self.job.payload
        self.is_watched = watched
        self.threads = threads
        self.at = dict(at or {})
        self.waiting = list(mates)
        self.saved: list[Any] = list(checkpoints)
        self.units: list[tuple[float | None, float | None, str]] = []
        self.events: list[Any] = []
        """As the engine emitted them."""
        self.result: Any = None
        self.error: Exception | None = None
        self.returned = 0
        """How often it was put back."""
        self.wake_ups = 0

    def yield_point(self, done: float | None = None, total: float | None = None, unit: str = "tokens") -> int:
        self.units.append((done, total, unit))
        if callback := self.at.get(len(self.units)):
            callback()
        return self.threads

    def emit(self, event: Any) -> None:
        self.events.append(event)

    def spool_path(self, sha256: str) -> Path:
        return self.folder / sha256

    def keep_result(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()
        (self.folder / name).write_bytes(data)
        return name

    def checkpoint(self, step: int, data: Any) -> None:
        self.saved.append(data)

    def checkpoints(self, type: type[Any] = dict) -> list[Any]:
        return list(self.saved)

    def claim_batch_mates(self, limit: int) -> list[ScriptedWork]:
        taken, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return taken

    def finish(self, result: Any) -> None:
        self.result = result

    def finish_mates(self, results: Sequence[tuple[Any, Any]]) -> None:
        for work, result in results:
            work.finish(result)

    def fail(self, error: Exception) -> None:
        self.error = error

    def put_back(self) -> None:
        self.returned += 1
