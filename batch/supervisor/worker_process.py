"""Keeps one worker process alive: starts it, watches it, restarts it with back-off, and says in words what ended it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import site
import sys
import time
from pathlib import Path
from typing import Protocol

import batch
from batch import logs
from batch.model_kind import kind_of
from batch.queue.frames import BROKEN_STATUS
from batch.queue.hub.model_state import UNKNOWN_WORKER, ModelState, ModelStates
from batch.queue.nodes import worker_id_of
from batch.settings import Settings
from batch.supervisor.worker_death import describe_death

logger = logging.getLogger("batch.supervisor")

MAX_EARLY_DEATHS = 3
"""So many deaths in a row before the model was ready make it failed."""
_HANG_CHECK_INTERVAL_S = 2.0
_MIN_CHECK_INTERVAL_S = 0.2
_KILL_AFTER_GRACE_S = 5.0
"""Beyond the grace time: a worker that does not end is killed."""
_FIRST_PAUSE_S = 0.5
_MAX_PAUSE_S = 30.0
_MIN_BROKEN_PAUSE_S = 5.0
_MAX_BROKEN_PAUSE_S = 60.0
_STEADY_AFTER_S = 30.0
"""A worker that lived so long is started again at once, and so is one that has ended a job: what kills it now and then costs
those who wait no more than its start."""


class WorkerHost(Protocol):
    """What knows the worker's state from its reports: the service's hub, or a worker's agent."""

    models: ModelStates

    async def turn_away(self, queue: str) -> None:
        """Refuse the clients that wait for a queue's model."""
        ...


class Demand(Protocol):
    """What knows whether a model that comes and goes is wanted."""

    async def make_room(self, wanting: WorkerProcess) -> None:
        """Awaited before the model is loaded: others may be unloaded for it."""
        ...

    def has_clients(self, queue: str) -> bool:
        """Whether clients wait for a queue's jobs."""
        ...

    async def is_waiting(self, queue: str) -> bool:
        """Whether a job waits in a queue."""
        ...


class WorkerProcess:
    """The worker of one queue, whichever process that is at the moment."""

    def __init__(
        self,
        queue: str,
        settings: Settings,
        hub: WorkerHost,
        stopping: asyncio.Event,
        *,
        demand: Demand | None = None,
        takes: str = "all",
    ) -> None:
        """`stopping` is set when the service ends; `demand` tells when the model is wanted: without it it stays loaded.
        `takes`: "interactive" leaves bulk work to other machines' workers."""
        self.queue = queue
        self._keep_alive_s = settings.section_of(queue).keep_alive if demand else -1.0
        self._demand = demand
        self._takes = takes
        self._wanted, self._unload, self._has_ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._has_ended.set()
        if not self.comes_and_goes:
            self._wanted.set()
        self.last_used = time.monotonic()
        """When it last had something to do."""
        self._worker_id = UNKNOWN_WORKER
        """Of the process that runs or ran last."""
        self._settings = settings.for_queue(queue)
        self._hub = hub
        self._stopping = stopping
        self._output: logs.WorkerOutput | None = None
        self._pause_s = _FIRST_PAUSE_S
        self._early_deaths = 0
        self._last_death = ""

    async def keep_alive(self) -> None:
        """Run workers one after the other until the service stops, and end the last one."""
        while await self._until_wanted():
            started_at = time.monotonic()
            try:
                process = await self._start()
            except OSError as error:  # no memory or no process to be had: others may end soon
                logger.error("the %s worker cannot be started: %s", self.queue, error)
                self._pause_s = min(_MAX_PAUSE_S, self._pause_s * 2)
            else:
                self._has_ended.clear()
                await self._watch(process)
                if self._stopping.is_set() or self._unload.is_set():
                    if self._unload.is_set():  # from now on a request has it loaded again
                        self._hub.models.update(self.queue, self._worker_id, status="unloaded")
                    await self._end(process)
                    self._has_ended.set()
                    continue
                self._has_ended.set()
                await self._act_on_death(await process.wait(), time.monotonic() - started_at)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._pause_s)
            if self.comes_and_goes and self._state.status == "failed":
                self._wanted.clear()  # what is wrong may be mended by the time that it is wanted again

    # -- models that come and go

    @property
    def comes_and_goes(self) -> bool:
        """Whether the model is loaded when it is wanted and unloaded when it is idle."""
        return self._keep_alive_s >= 0

    @property
    def is_unloaded(self) -> bool:
        """Whether no process holds the model, and none is about to."""
        return not self._wanted.is_set()

    def want(self) -> None:
        """Load the model, if it is not."""
        self._wanted.set()

    async def unload(self) -> None:
        """End the process until the model is wanted again; returns when its memory is free."""
        self._wanted.clear()
        self._unload.set()
        await self._has_ended.wait()

    async def _until_wanted(self) -> bool:
        """Wait until the model is to be loaded; False when the service stops."""
        self._unload.clear()
        if not self._wanted.is_set() and not self._stopping.is_set():
            self._hub.models.update(self.queue, self._worker_id, status="unloaded", progress=0.0, pid=None, busy=None)
            waiting = [asyncio.create_task(event.wait()) for event in (self._wanted, self._stopping)]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
        if self._stopping.is_set():
            return False
        if self.comes_and_goes and self._demand is not None:
            await self._demand.make_room(self)
        self.last_used = time.monotonic()
        return True

    async def _unload_if_idle(self) -> None:
        """Let go of a model that has had nothing to do for as long as it is kept."""
        state, now = self._state, time.monotonic()
        self.last_used = max(self.last_used, state.beat)
        if not self.comes_and_goes or state.status != "ready" or self._unload.is_set():
            return
        assert self._demand is not None
        if state.busy or self._demand.has_clients(self.queue):
            self.last_used = now
        elif now - self.last_used >= self._keep_alive_s:
            if await self._demand.is_waiting(self.queue):
                self.last_used = now
            else:
                logger.info("the %s model is unloaded: it was idle for %g s", self.queue, self._keep_alive_s)
                self._wanted.clear()
                self._unload.set()

    def close_output(self) -> None:
        """Wait for the last lines that the process and its libraries wrote."""
        if self._output is not None:
            self._output.end()

    @property
    def _state(self) -> ModelState:
        return self._hub.models.of(self.queue, self._worker_id)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Until the process has ended, the model is to be unloaded or the service stops."""
        ended = asyncio.create_task(process.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        unload = asyncio.create_task(self._unload.wait())
        interval_s = _HANG_CHECK_INTERVAL_S
        if self.comes_and_goes:
            interval_s = min(interval_s, max(_MIN_CHECK_INTERVAL_S, self._keep_alive_s))
        while not ended.done() and not stopping.done() and not unload.done():
            await asyncio.wait([ended, stopping, unload], return_when=asyncio.FIRST_COMPLETED, timeout=interval_s)
            if self._state.status == "ready":
                self._early_deaths = 0
            self._kill_if_hung(process)
            await self._unload_if_idle()
        stopping.cancel()
        unload.cancel()
        ended.cancel()

    async def _act_on_death(self, status: int, lived_s: float) -> None:
        if status == BROKEN_STATUS:
            self._last_death = ""
            await self._fail(self._state.error or f"The {self.queue} worker could not start: see the log.")
            return
        last_line = self._output.last_line if self._output else ""
        self._last_death = describe_death(kind_of(self.queue), status, last_line)
        logger.warning("%s: %s; starting it again", self.queue, self._last_death)
        self._early_deaths = 0 if self._state.was_ready else self._early_deaths + 1
        if self._early_deaths >= MAX_EARLY_DEATHS:
            self._hub.models.update(self.queue, self._worker_id, is_crashing=True)
            await self._fail(
                f"The {self.queue} model cannot be used: {self._last_death}, {self._early_deaths} times before it was loaded; "
                "`batch doctor` says more."
            )
        else:
            was_of_use = lived_s > _STEADY_AFTER_S or self._state.has_ended_jobs
            self._pause_s = _FIRST_PAUSE_S if was_of_use else min(_MAX_PAUSE_S, self._pause_s * 2)

    async def _fail(self, sentence: str) -> None:
        """Refuse this queue's clients. What is wrong may be mended meanwhile, so it is tried again, but not often."""
        logger.error("%s: %s", self.queue, sentence)
        self._hub.models.update(self.queue, self._worker_id, status="failed", error=sentence)
        if self._hub.models[self.queue].status == "failed":  # no other worker could do the work
            await self._hub.turn_away(self.queue)
        self._pause_s = min(_MAX_BROKEN_PAUSE_S, max(_MIN_BROKEN_PAUSE_S, self._pause_s * 2))

    def _kill_if_hung(self, process: asyncio.subprocess.Process) -> None:
        limit, state = self._settings.queue.hang, self._state
        if limit and state.busy and time.monotonic() - state.beat > limit and process.returncode is None:
            logger.error("the %s worker made no progress for %.0f s with job %s: killed", self.queue, limit, state.busy)
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def _start(self) -> asyncio.subprocess.Process:
        secret = secrets.token_hex(16)
        predecessor, self._worker_id = self._worker_id, worker_id_of(secret)
        self._hub.models.succeed(self.queue, predecessor, self._worker_id)
        self._hub.models.update(self.queue, self._worker_id, was_ready=False, has_ended_jobs=False)
        if self._state.status == "unloaded":
            self._hub.models.update(self.queue, self._worker_id, status="loading", error=None)
        output = logs.WorkerOutput(self.queue, is_serving=lambda: self._state.status == "ready")
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "batch.workers",
                self.queue,
                str(output.log_writer),
                self._last_death,
                self._takes,
                stdin=asyncio.subprocess.PIPE,
                stdout=output.raw_writer,
                stderr=output.raw_writer,
                pass_fds=(output.log_writer,),
                env=_environment(),
            )
        finally:
            output.close_writers()
        self._output = output
        assert process.stdin is not None
        # The pipe stays open: its closing is how the worker learns that we are gone.
        process.stdin.write(f"{secret} {self._settings.model_dump_json()}\n".encode())
        with contextlib.suppress(ConnectionError):
            await process.stdin.drain()
        return process

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), self._settings.queue.grace + _KILL_AFTER_GRACE_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _environment() -> dict[str, str]:
    """A worker's: what lies in the folder that the service was started in must not pass for Python's modules."""
    # Without a backtrace: at each abort ggml would spend seconds in a debugger.
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1", "GGML_NO_BACKTRACE": "1"}
    checkout = str(Path(batch.__file__).parent.parent)
    if checkout not in site.getsitepackages():  # run from a checkout
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, (variables.get("PYTHONPATH"), checkout)))
    return variables
