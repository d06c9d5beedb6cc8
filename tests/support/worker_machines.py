"""Several `batch worker` processes with homes of their own, of which drills take one down and bring it up again."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from batch.queue.nodes import Node
from batch.queue.store import Store, StoreAway
from running_service import WEIGHTLESS, alive, wait_until
from running_worker import RunningWorker

PATIENT = {**WEIGHTLESS, "BATCH_QUEUE__ATTEMPTS": "1000"}
"""A job may be hit by chance more often than it would be set aside for."""


class WorkerMachines:
    """Workers by name; a context that ends them all."""

    def __init__(self, folder: Path, url: str, names: Sequence[str], *, variables: dict[str, str] | None = None) -> None:
        self._folder, self._url, self._names = folder, url, names
        self._variables = {**PATIENT, **(variables or {})}
        self.prefixes: dict[str, tuple[str, ...]] = {}
        """Commands that a machine's worker is started by, say in a namespace of its own."""
        self._workers: dict[str, RunningWorker] = {}
        self._ended_output = ""

    def __enter__(self) -> WorkerMachines:
        for name in self._names:
            self.start(name)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.close()

    def __getitem__(self, name: str) -> RunningWorker:
        return self._workers[name]

    def start(self, name: str) -> None:
        """Start a machine's worker, again if it ended, as its service manager does."""
        if old := self._workers.pop(name, None):
            old.close()
            self._ended_output += old.output
        prefix = self.prefixes.get(name, ())
        self._workers[name] = RunningWorker(self._folder / name, "vlm", self._url, self._variables, prefix=prefix)

    @property
    def output(self) -> str:
        """What all of them, also those that ended, have said."""
        return self._ended_output + "".join(worker.output for worker in self._workers.values())

    def nodes(self, store: Store, name: str) -> list[Node]:
        """A machine's workers that live, as the database lists them; none while it is away."""
        group = self._workers[name].process.pid
        with contextlib.suppress(StoreAway):
            return [node for node in store.nodes() if alive(node.pid) and _group(node.pid) == group]
        return []

    def wait_until_ready(self, store: Store, *names: str, seconds: float = 90.0) -> None:
        """Until these machines (all by default) have a worker that takes jobs."""
        for name in names or self._names:
            wait_until(
                lambda name=name: any(node.status == "ready" and node.beat_age_s < 5 for node in self.nodes(store, name)),
                f"{name} is ready\n{self._workers[name].output}",
                seconds,
            )

    def holds(self, store: Store, name: str) -> bool:
        """Whether a machine holds a job now."""
        return any(node.leases for node in self.nodes(store, name))

    def kill_worker(self, store: Store, name: str) -> bool:
        """SIGKILL to a machine's worker process; False where none lives at the moment."""
        nodes = self.nodes(store, name)
        for node in nodes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(node.pid, signal.SIGKILL)
        return bool(nodes)


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0
