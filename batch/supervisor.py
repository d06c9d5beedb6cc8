"""`batch serve`: one asyncio loop with three HTTP servers and the inbox watcher, and three worker processes it keeps alive."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import resource
import signal
import site
import socket
import sys
import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

import batch
from batch import __version__, fail_points, logs
from batch.api.app import AppServices, create_app
from batch.api.batches.endpoints import line_endpoints
from batch.api.http.connection_limits import protocol
from batch.api.responses.background import BackgroundResponses
from batch.batches.service import BatchService
from batch.errors import AlreadyRunning, BatchError, DiskFull
from batch.folder.service import FolderService, make_inbox_and_outbox
from batch.queue.hub import Hub
from batch.queue.jobs import Kind
from batch.queue.model_state import ModelState
from batch.queue.open_store import open_store
from batch.queue.periodic import PeriodicTasks
from batch.queue.spool import Spool
from batch.queue.store import Store
from batch.retention import Retention
from batch.search.service import SearchService
from batch.settings import Settings

logger = logging.getLogger("batch.supervisor")

_BROKEN = 3
"""workers/__main__.py's exit status for a model that cannot be loaded."""
_BREAKDOWN = 70
"""Exit status after a fault of our own; 1 is for what a person can mend, as a port in use."""
_LOOK = 2.0
"""Seconds between two looks whether a worker hangs."""
_NOTE_AGAIN = 1.0
"""Seconds until a note that a full disk did not take is written once more."""
_KILL_AFTER = 5.0
"""Seconds beyond the grace time after which a worker that does not end is killed."""


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: the supervisor has them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


class Supervisor:
    """One a home. `run` returns when the service has ended."""

    def __init__(self, settings: Settings, *, announce: Callable[[dict[Kind, int]], None] = lambda ports: None) -> None:
        self.settings = settings
        self._announce = announce
        self._stopping = asyncio.Event()
        self._workers: dict[Kind, asyncio.subprocess.Process] = {}
        self._lines: dict[Kind, logs.Lines] = {}
        self._periodic = PeriodicTasks()

    async def run(self) -> None:
        settings = self.settings
        fail_points.arm(settings.fail_at, settings.state_dir)
        with _writing(settings.home):
            for folder in (settings.state_dir, settings.state_dir / "run", settings.state_dir / "logs"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            make_inbox_and_outbox(settings)
        with self._only_one(), contextlib.ExitStack() as sockets:
            logs.to_file(settings)
            listening = {kind: sockets.enter_context(_listen(kind, settings.model_of(kind).port)) for kind in Kind}
            ports = {kind: int(sock.getsockname()[1]) for kind, sock in listening.items()}
            store = open_store(settings.database)
            try:
                await self._serve(store, listening, ports)
            finally:
                _note(store, "service", None)
                store.close()

    async def _serve(self, store: Store, listening: dict[Kind, socket.socket], ports: dict[Kind, int]) -> None:
        settings = self.settings
        abandoned = store.abandon_waited()
        if abandoned:
            logger.info("%d requests whose callers went down with the last service are cancelled", abandoned)
        hub = Hub(store, Spool(settings.state_dir / "spool"), settings.state_dir, max_waiting=settings.queue.waiting)
        await hub.start()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._signalled)
        folder = FolderService(settings, hub)
        batches = BatchService(
            hub,
            line_endpoints(hub, settings.limits),
            settings.state_dir / "batches",
            max_line_bytes=settings.limits.body_bytes,
        )
        services = AppServices(batches, BackgroundResponses(hub), SearchService(hub))
        servers = {
            kind: Server(
                uvicorn.Config(
                    create_app(kind, hub, settings, services),
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
                **{f"model:{kind}": _model_note(hub.model(kind)) for kind in Kind},
            }
        )
        retention = Retention(settings, store, hub.spool, self._periodic.pause)
        self._periodic.add("delete expired", retention.delete_expired, at_start=True)
        # A request may be refused after its upload, or only counted: its payload has no job.
        self._periodic.add("walk", retention.walk, minute="17", at_start=True)
        serving = [asyncio.create_task(servers[kind].serve([listening[kind]])) for kind in Kind]
        tending = [asyncio.create_task(self._tend(kind, hub)) for kind in Kind]
        others = [
            asyncio.create_task(self._note_models(store, hub)),
            asyncio.create_task(batches.run()),
        ]
        await services.background.start()
        await folder.start()
        self._periodic.start()
        self._announce(ports)
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([stopping, *serving, *tending, *others], return_when=asyncio.FIRST_COMPLETED)
        self._stopping.set()
        await hub.in_thread(lambda: _note(store, "stopping", True))
        # No new work from the folder, then the workers end or put back what they hold, then callers are told.
        await folder.stop()
        await asyncio.to_thread(self._periodic.stop)
        await services.background.stop()
        await asyncio.to_thread(services.search.close)
        ended = await asyncio.gather(*tending, return_exceptions=True)
        for lines in self._lines.values():
            await asyncio.to_thread(lines.end)
        for task in (stopping, *others):
            task.cancel()
        ended += await asyncio.gather(*others, return_exceptions=True)
        await hub.close()
        for server in servers.values():
            server.should_exit = True
        ended += await asyncio.gather(*serving, return_exceptions=True)
        for outcome in ended:
            if isinstance(outcome, Exception):
                raise outcome

    def _signalled(self) -> None:
        if self._stopping.is_set():
            # A second signal means now. Workers see their pipe close; whatever they hold is recovered at the next start.
            os._exit(130)
        self._stopping.set()

    # -- workers

    async def _tend(self, kind: Kind, hub: Hub) -> None:
        """Keep one worker process alive until the service stops, restarting it with back-off."""
        pause = 0.5
        while not self._stopping.is_set():
            begun = time.monotonic()
            try:
                process = await self._start(kind)
            except OSError as error:  # no memory or no process to be had: others may end soon
                logger.error("the %s worker cannot be started: %s", kind, error)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), pause)
                pause = min(30.0, pause * 2)
                continue
            self._workers[kind] = process
            ending = asyncio.create_task(process.wait())
            stopping = asyncio.create_task(self._stopping.wait())
            while not ending.done() and not stopping.done():
                await asyncio.wait([ending, stopping], return_when=asyncio.FIRST_COMPLETED, timeout=_LOOK)
                self._kill_if_hung(kind, hub, process)
            stopping.cancel()
            if self._stopping.is_set():
                await self._end(process)
                return
            code = await ending
            if code == _BROKEN:
                # Hub knows why. A model may be fetched or mended meanwhile, so it is tried again, but not often.
                state = hub.model(kind)
                if state.status != "failed":
                    hub.models.update(kind, status="failed", error=f"The {kind} worker could not start: see the log.")
                logger.error("%s: %s", kind, hub.model(kind).error)
                await hub.turn_away(kind)
                pause = min(60.0, max(5.0, pause * 2))
            else:
                logger.warning("the %s worker ended with status %s; starting it again", kind, code)
                pause = 0.5 if time.monotonic() - begun > 30 else min(30.0, pause * 2)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    def _kill_if_hung(self, kind: Kind, hub: Hub, process: asyncio.subprocess.Process) -> None:
        limit, state = self.settings.queue.hang, hub.model(kind)
        if limit and state.busy and time.monotonic() - state.beat > limit and process.returncode is None:
            logger.error("the %s worker made no progress for %.0f s with job %s: killed", kind, limit, state.busy)
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def _start(self, kind: Kind) -> asyncio.subprocess.Process:
        lines = logs.Lines(kind)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "batch.workers",
                kind.value,
                stdin=asyncio.subprocess.PIPE,
                stdout=lines.writer,
                stderr=lines.writer,
                env=_environment(),
            )
        finally:
            os.close(lines.writer)
        self._lines[kind] = lines
        assert process.stdin is not None
        # The pipe stays open: its closing is how the worker learns that we are gone.
        process.stdin.write(self.settings.model_dump_json().encode() + b"\n")
        with contextlib.suppress(ConnectionError):
            await process.stdin.drain()
        return process

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), self.settings.queue.grace + _KILL_AFTER)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _note_models(self, store: Store, hub: Hub) -> None:
        """Keep what `batch status` shows of the models in the database."""
        written: dict[Kind, dict[str, Any]] = {}
        lost = False
        while True:
            changed, told, lost = hub.models.next_change(), lost, False
            for kind in Kind:
                state = hub.model(kind)
                note = _model_note(state)
                if note != written.get(kind):
                    if await hub.in_thread(partial(_note, store, f"model:{kind}", note, tell=not told)):
                        written[kind] = note
                    else:
                        lost = True
                hub.models.mark_recorded(kind, state)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), _NOTE_AGAIN if lost else None)

    # -- being the only one

    @contextlib.contextmanager
    def _only_one(self) -> Any:
        path = self.settings.state_dir / "run" / "service.lock"
        with _writing(self.settings.home):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with open(descriptor, "r+b", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = file.read().decode() or "unknown"
                raise AlreadyRunning(
                    f"batch is already running in {self.settings.home} (pid {pid}): stop it first, or use another --home."
                ) from None
            with _writing(self.settings.home):
                file.truncate(0)
                file.write(str(os.getpid()).encode())
            yield


@contextlib.contextmanager
def _writing(home: Path) -> Generator[None]:
    """A home that takes no writes is told in one sentence."""
    try:
        yield
    except OSError as error:
        raise DiskFull(
            f"{error.filename or home} cannot be written ({error.strerror}): look after its disk, or use another --home."
        ) from error


def _note(store: Store, name: str, value: Any, *, tell: bool = True) -> bool:
    """A note for `batch status`, for which a full disk must not bring the service down; whether it was written."""
    try:
        store.note({name: value})
    except DiskFull as error:
        if tell:
            logger.warning("`batch status` misses some news: %s", error.message)
        return False
    return True


def _model_note(state: ModelState) -> dict[str, Any]:
    info = state.info
    facts = {k: getattr(info, k) for k in ("model", "path", "size", "n_ctx", "n_embd")} if info else {}
    return {
        "status": state.status,
        "progress": round(state.progress, 2),
        "error": state.error,
        "pid": state.pid,
        "facts": facts,
    }


def _environment() -> dict[str, str]:
    """A worker's: what lies in the folder that the service was started in must not pass for Python's modules."""
    found = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"}
    here = str(Path(batch.__file__).parent.parent)
    if here not in site.getsitepackages():  # run from a checkout
        found["PYTHONPATH"] = os.pathsep.join(filter(None, (found.get("PYTHONPATH"), here)))
    return found


def _listen(kind: Kind, port: int) -> socket.socket:
    """A socket on 127.0.0.1, never on another address."""
    # The protocol is named because asyncio switches Nagle's delay off (40 ms an answer) only where it is.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(("127.0.0.1", port))
        sock.listen(2048)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise AlreadyRunning(
                f"Port {port} ({kind}) is in use by another program: stop that, or set {kind}.port in batch.toml."
            ) from None
        raise BatchError(f"Port {port} ({kind}) cannot be opened: {error.strerror}.") from None
    return sock


def serve(settings: Settings, announce: Callable[[dict[Kind, int]], None] = lambda ports: None) -> None:
    """Run the service until it is told to stop; raises BatchError when it cannot start."""
    logs.to_terminal(settings)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    _room_for_callers()

    async def main() -> None:
        await Supervisor(settings, announce=announce).run()

    try:
        asyncio.run(main())
    except BatchError as error:
        logs.last_words(settings, error.message)
        raise
    except Exception as error:
        logger.critical("the service broke down", exc_info=error)
        sys.exit(_BREAKDOWN)


def _room_for_callers() -> None:
    """Every waiting caller holds a descriptor, and the usual soft limit of 1,024 is less than `queue.waiting` on 3 ports."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


__all__ = ["Supervisor", "serve"]
