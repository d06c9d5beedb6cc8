"""`batch serve`: one asyncio loop with three HTTP servers and the inbox watcher, and three worker processes it keeps alive."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from batch import __version__, fail_points, logs
from batch.api.app import AppServices, create_app
from batch.api.batches.endpoints import line_endpoints
from batch.api.http.http_protocol import protocol
from batch.api.responses.background import BackgroundResponses
from batch.batches.service import BatchService
from batch.durable_folder import make_durable_folder
from batch.errors import SettingsProblem
from batch.folder.service import make_inbox_and_outbox
from batch.page.routes import page_router
from batch.page.service import PageService
from batch.queue.duties.duty_store import COMMON_DUTY, presence_of
from batch.queue.duties.guarded_store import guarded
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Kind
from batch.queue.open_store import open_spool, open_store
from batch.queue.periodic import PeriodicTasks
from batch.queue.remote.home_id import home_id
from batch.queue.remote.inbox_id import recognise_inbox
from batch.queue.remote.open_channel import PortSettings, open_channel
from batch.queue.store import WRITE_REFUSED, Store
from batch.search.service import SearchService
from batch.settings import Settings
from batch.supervisor.backup import Backup
from batch.supervisor.duties.common_work import CommonWork
from batch.supervisor.duties.inbox_work import InboxWork
from batch.supervisor.duties.keeper import DutyKeeper
from batch.supervisor.main_loop import run_loop
from batch.supervisor.model_loader import ModelLoader
from batch.supervisor.retention import Retention
from batch.supervisor.service_notes import model_note, record_models, write_note
from batch.supervisor.single_instance import listen, only_instance, write_errors

if TYPE_CHECKING:
    from batch.mcp.http_endpoint import McpEndpoint

logger = logging.getLogger("batch.supervisor")

SECOND_SIGNAL_STATUS = 130
TICK_S = 1.0
"""How often the Date header changes."""
NO_MODEL = "none"
"""A model "name" that says: other machines do this kind's work."""
MAX_DESCRIPTORS = 65536


class Server(uvicorn.Server):
    """uvicorn without its signal handlers, which the supervisor has, and without ten looks a second at whether to end."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Have `serve` end."""
        self.should_exit = True
        self._stopping.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # which sets the time that answers tell
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._stopping.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


class Supervisor:
    """One a home. `run` returns when the service has ended."""

    def __init__(self, settings: Settings, *, announce: Callable[[dict[Kind, int]], None] = lambda ports: None) -> None:
        self.settings = settings
        self._announce = announce
        self._stopping = asyncio.Event()
        self._periodic = PeriodicTasks()
        self._release: Callable[[], None] = lambda: None

    async def run(self) -> None:
        settings = self.settings
        fail_points.arm(settings.fail_at, settings.state_dir)
        with write_errors(settings.home):
            for folder in (settings.state_dir, settings.state_dir / "run", settings.state_dir / "logs"):
                make_durable_folder(folder, 0o700)
            make_inbox_and_outbox(settings)
        with only_instance(settings), contextlib.ExitStack() as sockets:
            logs.to_file(settings)
            listening = {kind: sockets.enter_context(listen(kind, settings.model_of(kind).port)) for kind in Kind}
            ports = {kind: int(sock.getsockname()[1]) for kind, sock in listening.items()}
            if isinstance(settings.database_address, str):
                recognise_inbox(settings.inbox_dir, settings.state_dir, home_id(settings.state_dir))
            store = open_store(settings.database_address, home=settings.home, owns_home=True)
            try:
                if store.notes().get("service"):
                    logger.warning("the last service did not end as it should: its database is checked")
                    store.check()
                await self._serve(store, listening, ports)
            finally:
                with contextlib.suppress(*WRITE_REFUSED):
                    self._release()
                write_note(store, "service", None)
                store.close()

    async def _serve(self, store: Store, listening: dict[Kind, socket.socket], ports: dict[Kind, int]) -> None:
        settings = self.settings
        store.hold([presence_of(store.front)])
        abandoned = store.abandon_waited()
        if abandoned:
            logger.info("%d requests whose clients went down with the last service are cancelled", abandoned)
        hub = Hub(
            store,
            open_spool(settings.database_address, settings.state_dir / "spool", settings.payloads),
            settings.state_dir,
            max_waiting=settings.queue.waiting,
            channel=open_channel(
                settings.database_address,
                store.front,
                is_front=True,
                listen_url=settings.listen_database,
                port=PortSettings(settings.front.listen, settings.front.advertise, settings.state_dir),
            ),
            home=store.front,
            queues=settings.queues,
            attempts=settings.queue.attempts,
        )
        loader = ModelLoader(settings, hub, self._stopping, kinds=[kind for kind in Kind if _has_worker(settings, kind)])
        await hub.start()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._signalled)
        inbox = InboxWork(settings, hub)
        batches = BatchService(
            hub,
            line_endpoints(hub, settings.limits, settings.retention.responses_s),
            settings.state_dir / "batches",
            max_line_bytes=settings.limits.body_bytes,
            on_end=inbox.batch_ended,
            store=guarded(store, COMMON_DUTY),
        )
        endpoint = _mcp_endpoint(settings, store, ports[Kind.VLM]) if settings.mcp.http else None
        services = AppServices(batches, BackgroundResponses(hub), SearchService(hub), endpoint, loader)
        common = CommonWork(settings, hub, batches, services.background)
        keeper = DutyKeeper(store, hub, [common.duty(), inbox.duty()], presence_of(store.front))
        self._release = keeper.release
        page = PageService(settings, hub, services.search)
        pages = {Kind.VLM: [page_router(page)]} if settings.page.enabled else {}
        servers = {
            kind: Server(
                uvicorn.Config(
                    create_app(kind, hub, settings, services, pages.get(kind, ())),
                    log_config=None,
                    access_log=False,
                    lifespan="off",
                    proxy_headers=False,
                    timeout_graceful_shutdown=2,
                    timeout_keep_alive=75,
                    server_header=False,
                    http=protocol(settings.limits),
                    ws="none",
                )
            )
            for kind in Kind
        }
        # A service that was killed left notes of ready models and of its workers' pids: all are replaced at once.
        store.note(
            {
                "stopping": False,
                "service": {
                    "pid": os.getpid(),
                    "started": time.time(),
                    "ports": {str(k): p for k, p in ports.items()},
                    "profile": settings.profile,
                    "version": __version__,
                    "models": {str(k): settings.model_of(k).model for k in Kind},
                },
                **{f"model:{queue}": model_note(hub.model(queue)) for queue in settings.queues},
            }
        )
        retention = Retention(settings, store, hub.spool, self._periodic.pause)
        self._periodic.add("delete expired", keeper.of_one(COMMON_DUTY, retention.delete_expired), at_start=True)
        # A request may be refused after its upload, or only counted: its payload has no job.
        walk = keeper.of_one(COMMON_DUTY, retention.walk, otherwise=retention.tidy_home)
        self._periodic.add("walk", walk, minute="17", at_start=True)
        self._periodic.add("backup", Backup(settings, store).make_if_due, minute="30", at_start=True)
        gc.freeze()  # what is loaded stays: looking through all of it for garbage would hold up requests
        serving = [asyncio.create_task(servers[kind].serve([listening[kind]])) for kind in Kind]
        workers = list(loader.workers.values())
        tending = [asyncio.create_task(worker.keep_alive()) for worker in workers]
        others = [
            asyncio.create_task(record_models(store, hub)),
            asyncio.create_task(loader.run()),
            *([asyncio.create_task(endpoint.run())] if endpoint else []),
        ]
        await services.background.start()
        await keeper.start()
        others.append(keeping := asyncio.create_task(keeper.run()))
        if settings.page.enabled:
            page.start()
        self._periodic.start()
        self._announce(ports)
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([stopping, *serving, *tending, *others], return_when=asyncio.FIRST_COMPLETED)
        self._stopping.set()
        await hub.in_thread(lambda: write_note(store, "stopping", True))
        # No new work from the folder, then the workers end or put back what they hold, then clients are told.
        keeping.cancel()
        await asyncio.wait([keeping])
        await inbox.stop()
        await asyncio.to_thread(self._periodic.stop)
        common.stop_notifications()
        await services.background.stop()
        await page.stop()
        await asyncio.to_thread(services.search.close)
        ended = await asyncio.gather(*tending, return_exceptions=True)
        for worker in workers:
            await asyncio.to_thread(worker.close_output)
        for task in (stopping, *others):
            task.cancel()
        ended += await asyncio.gather(*others, return_exceptions=True)
        await keeper.stop()
        await hub.close()
        for server in servers.values():
            server.stop()
        ended += await asyncio.gather(*serving, return_exceptions=True)
        for outcome in ended:
            if isinstance(outcome, Exception):
                raise outcome

    def _signalled(self) -> None:
        if self._stopping.is_set():
            # A second signal means now. Workers see their pipe close; whatever they hold is recovered at the next start.
            os._exit(SECOND_SIGNAL_STATUS)
        self._stopping.set()


def serve(settings: Settings, announce: Callable[[dict[Kind, int]], None] = lambda ports: None) -> None:
    """Run the service until it is told to stop; raises BatchError when it cannot start."""
    logs.to_terminal(settings)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    _raise_descriptor_limit()
    run_loop(lambda: Supervisor(settings, announce=announce).run(), settings, "the service")


def _mcp_endpoint(settings: Settings, store: Store, port: int) -> McpEndpoint:
    """What answers at /mcp. Raises SettingsProblem where the package for it is missing."""
    from batch.mcp import missing_package_advice

    try:
        from batch.mcp.http_endpoint import McpEndpoint
    except ModuleNotFoundError as error:
        if (advice := missing_package_advice(error)) is None:
            raise
        raise SettingsProblem(f"mcp.http is true, and {advice}") from None
    return McpEndpoint(settings, store, port)


def _has_worker(settings: Settings, kind: Kind) -> bool:
    """Whether this machine computes for a kind. Raises SettingsProblem where nobody would."""
    if settings.model_of(kind).model != NO_MODEL:
        return True
    if isinstance(settings.database_address, Path):
        raise SettingsProblem(
            f'{kind}.model is "{NO_MODEL}", and no other machine can do its work while the jobs are in a file: set database to '
            "the address of a PostgreSQL database, or name a model."
        )
    return False


def _raise_descriptor_limit() -> None:
    """Every waiting client holds a descriptor, and the usual soft limit of 1,024 is less than `queue.waiting` on 3 ports."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < limit:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
