"""Which models are loaded: those that stay, and those that come with their jobs and go when they are idle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from batch.catalog import resolve
from batch.errors import BatchError, Conflict, NotFound, Unavailable
from batch.memory.machine import machine_memory
from batch.model_kind import Kind, kind_of, model_of
from batch.queue.hub.hub import Hub
from batch.settings import Settings
from batch.supervisor.worker_process import WorkerProcess

logger = logging.getLogger("batch.supervisor")

LOOK_INTERVAL_S = 2.0
"""After so long a job that another process queued for an unloaded model is seen."""
_MODEL_SHARE = 1.3
"""A model takes about so many times its files' size."""
_SPARE_BYTES = 300_000_000
_LOAD_TIMEOUT_S = 600.0


class ModelLoader:
    """One a service: the worker processes of all models, by the names of their queues."""

    def __init__(self, settings: Settings, hub: Hub, stopping: asyncio.Event, kinds: Collection[Kind] = tuple(Kind)) -> None:
        """`stopping` is set when the service ends; `kinds`: those whose own model this machine computes."""
        self._settings, self._hub = settings, hub
        self.workers = {
            queue: WorkerProcess(queue, settings, hub, stopping, demand=self)
            for queue in settings.queues
            if model_of(queue) or queue in kinds
        }
        hub.model_wanted = self.want

    def want(self, queue: str) -> None:
        """Load a queue's model, if it is one of this home's and not loaded."""
        if worker := self.workers.get(queue):
            worker.want()

    async def load(self, name: str) -> None:
        """Load a model by its name, or a kind's own by that; returns once it is ready. Raises NotFound, and Unavailable with
        what went wrong."""
        queue = self._queue_named(name)
        self.want(queue)
        try:
            async with asyncio.timeout(_LOAD_TIMEOUT_S):
                while (state := self._hub.model(queue)).status != "ready":
                    if state.status == "failed":
                        raise Unavailable(state.error)
                    await self._hub.models.next_change().wait()
        except TimeoutError:
            raise Unavailable(f"The model {name} is not loaded after {_LOAD_TIMEOUT_S:.0f} seconds: see the log.") from None

    async def unload(self, name: str) -> None:
        """Free the memory of a model by its name; its next job loads it again. Raises NotFound, and Conflict while it works."""
        worker = self.workers[self._queue_named(name)]
        if self._hub.model(worker.queue).busy or self._hub.waiting_clients(worker.queue):
            raise Conflict(f"The model {name} works: unload it when it has ended, or cancel its job.")
        await worker.unload()

    def _queue_named(self, name: str) -> str:
        for queue in self.workers:
            if name == (model_of(queue) or queue):
                return queue
        names = ", ".join(model_of(queue) or queue for queue in self.workers)
        raise NotFound(f"There is no model {name[:100]!r} in the settings: there are {names}.")

    async def run(self) -> None:
        """Load unloaded models for jobs that other processes queued, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            for queue, worker in self.workers.items():
                if worker.is_unloaded and await self.is_waiting(queue):
                    worker.want()

    def has_clients(self, queue: str) -> bool:
        """Whether clients wait for a queue's jobs."""
        return self._hub.waiting_clients(queue) > 0

    async def is_waiting(self, queue: str) -> bool:
        """Whether a job waits in a queue, in a class that is not paused."""
        try:
            return await self._hub.in_thread(lambda: self._hub.store.is_waiting(queue))
        except BatchError:  # a full disk, a database that is away: the next look is soon
            return False

    async def make_room(self, wanting: WorkerProcess) -> None:
        """Unload models that are idle, the one first whose last job is longest ago, while memory is short for another."""
        need = await asyncio.to_thread(self._needed_bytes, wanting)
        while need > 0:
            memory = machine_memory()
            if memory is None or memory.free + memory.swap >= need:
                return
            idle = [worker for worker in self.workers.values() if worker is not wanting and self._is_idle(worker)]
            if not idle:
                return  # the worker's own plan makes it fit, or says in one sentence that it does not
            oldest = min(idle, key=lambda worker: worker.last_used)
            logger.info("the %s model is unloaded: its memory is needed for the %s model", oldest.queue, wanting.queue)
            await oldest.unload()

    def _is_idle(self, worker: WorkerProcess) -> bool:
        state = self._hub.model(worker.queue)
        return worker.comes_and_goes and state.status == "ready" and state.busy is None and not self.has_clients(worker.queue)

    def _needed_bytes(self, worker: WorkerProcess) -> int:
        """About what a model takes; 0 where its files cannot be read, which its worker will say."""
        try:
            model = resolve(self._settings.for_queue(worker.queue), kind_of(worker.queue))
            files = sum(path.stat().st_size for path in (model.path, model.mmproj) if path is not None)
        except (BatchError, OSError):
            return 0
        return int(_MODEL_SHARE * files) + _SPARE_BYTES
