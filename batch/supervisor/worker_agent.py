"""`batch worker KIND`: keeps one worker alive on a machine that has nothing but a model and the address of the database."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from pathlib import Path

from batch import fail_points, logs
from batch.durable_folder import make_durable_folder
from batch.errors import SettingsProblem
from batch.model_kind import kind_of
from batch.queue.channel import Waker
from batch.queue.frames import DiskWaiting, End, Hello, WorkerFrame
from batch.queue.hub.model_state import ModelStates
from batch.queue.hub.open_tickets import OpenTickets
from batch.queue.hub.worker_links import WorkerLinks
from batch.queue.hub.worker_reports import WorkerReports
from batch.queue.remote.channel import Channel, Receiver
from batch.queue.remote.home_id import home_id
from batch.queue.remote.open_channel import open_channel
from batch.queue.remote.packet import ForWorker, Packet
from batch.queue.remote.relay import Relay
from batch.queue.store import StoreAway
from batch.settings import Settings
from batch.supervisor.main_loop import run_loop
from batch.supervisor.single_instance import only_instance, write_errors
from batch.supervisor.worker_process import WorkerProcess

logger = logging.getLogger("batch.supervisor")

_RETRY_S = 2.0
_ANSWER_TIMEOUT_S = 60.0


def settings_of_worker(settings: Settings, queue: str) -> Settings:
    """The settings of a home for one worker, in a folder of its own there: a service, or workers of other kinds, may run in
    the same home. Raises SettingsProblem where there is no database that could be shared."""
    if isinstance(settings.database_address, Path):
        raise SettingsProblem(
            "A worker of its own needs the address of the database that it takes jobs from: --database "
            "postgresql://USER@HOST/NAME, or BATCH_DATABASE."
        )
    home = settings.home.absolute()
    changes: dict[str, object] = {}
    kind = kind_of(queue)
    settings = settings.for_queue(queue)
    section = settings.model_of(kind)
    for name in ("model", "mmproj", "vad_model"):
        path = getattr(section, name, "")
        if path and (home / path).is_file():
            changes[name] = os.fspath(home / path)
    return settings.model_copy(
        update={
            "home": home / ".batch" / "workers" / queue.replace(":", "-"),
            "models_dir": home / settings.models_dir,
            kind.value: section.model_copy(update=changes),
        }
    )


class WorkerAgent:
    """One a worker's machine and kind. `run` returns once the worker has put back what it held."""

    def __init__(self, queue: str, settings: Settings, *, takes: str = "all") -> None:
        """`settings`: those of `settings_of_worker`; `takes`: "interactive" leaves bulk work to other workers."""
        self.queue = queue
        self.settings = settings
        self._takes = takes
        self.models = ModelStates((queue,))
        self.tickets = OpenTickets()
        self._reports = WorkerReports(self)
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Run the worker until this process is told to end. Raises AlreadyRunning, DiskFull, SettingsProblem."""
        settings = self.settings
        fail_points.arm(settings.fail_at, settings.state_dir)
        with write_errors(settings.home):
            for folder in (settings.state_dir, settings.state_dir / "run", settings.state_dir / "logs"):
                make_durable_folder(folder, 0o700)
        with only_instance(settings):
            logs.to_file(settings)
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, self._stopping.set)
            home = home_id(settings.state_dir)
            channel = open_channel(settings.database_address, home, is_front=False, listen_url=settings.listen_database)
            assert channel is not None
            waker = Waker(settings.state_dir)
            links = WorkerLinks(
                settings.state_dir,
                connected=self._connected,
                received=self._received,
                row_changed=self._ignore,
                gone=self._reports.worker_gone,
            )
            self._relay = Relay(channel, home, links.ask)
            await links.start()
            try:
                if await self._open(channel, waker):
                    process = WorkerProcess(self.queue, settings, self, self._stopping, takes=self._takes)
                    await process.keep_alive()
                    await asyncio.to_thread(process.close_output)
            finally:
                links.close()
                await asyncio.to_thread(channel.close)
                waker.close()

    async def _open(self, channel: Channel, waker: Waker) -> bool:
        """Listen to the other homes, as soon as the database answers; False when this process is to end before."""
        loop = asyncio.get_running_loop()

        def receive(packet: Packet) -> None:
            loop.call_soon_threadsafe(self._receive, packet)

        receiver = Receiver(receive, waker.wake, lambda: None)
        has_logged = False
        while not self._stopping.is_set():
            try:
                await asyncio.to_thread(channel.open, receiver)
                return True
            except StoreAway as error:
                if not has_logged:
                    logger.error("%s", error.message)
                has_logged = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _RETRY_S)
        return False

    def _receive(self, packet: Packet) -> None:
        for item in packet.items:
            if isinstance(item, ForWorker):
                task = asyncio.ensure_future(self._relay.answer(item, _ANSWER_TIMEOUT_S))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    # -- what the worker reports

    async def _connected(self, hello: Hello) -> None:
        await self._reports.worker_connected(hello)

    def _received(self, queue: str, frame: WorkerFrame, worker: str) -> None:
        if not self._relay.forward(queue, frame, worker) and isinstance(frame, End):
            # Left by its predecessor, and ended: nobody knows who accepted it.
            self._relay.report_ended(frame.job, queue)
        self._reports.receive(queue, frame, worker)

    async def _ignore(self, job: str) -> None:
        """Commands of this machine find the job's row themselves."""

    # -- what a hub does for clients, of which there are none here

    async def turn_away(self, queue: str) -> None:
        """The worker's row says that its model cannot be loaded."""

    def refuse_waiting(self, queue: str, waiting: DiskWaiting) -> None:
        """Services see for themselves that the database takes no writes."""

    async def read_job(self, job: str) -> None:
        """Nobody here waits for a job."""


def run_worker(queue: str, settings: Settings, *, takes: str = "all") -> None:
    """Run one worker until it is told to stop; raises BatchError when it cannot start."""
    settings = settings_of_worker(settings, queue)
    logs.to_terminal(settings)
    run_loop(lambda: WorkerAgent(queue, settings, takes=takes).run(), settings, "the worker's agent")
