"""What becomes of the owner's command when it, or the service, ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from batch.notifications.command_hook import run_command
from batch.notifications.rows import DeliveryState
from batch.notifications.service import NotificationService
from batch.queue.hub.hub import Hub
from batch.queue.open_store import open_store
from batch.queue.spool import Spool
from batch.settings import Settings
from running_service import alive, wait_until

pytestmark = pytest.mark.anyio

ENDLESS = "import os, time; pid = os.fork(); open('pids', 'a').write(f'{os.getpid()} '); time.sleep(600)"
CALLER = (
    "import sys; from pathlib import Path; from batch.notifications.command_hook import run_command; "
    "run_command([sys.executable, '-c', sys.argv[1]], b'{}', {}, Path(sys.argv[2]))"
)


def test_a_command_ends_with_the_service_that_runs_it_however_that_ends(tmp_path: Path) -> None:
    """It went on without its limit; a next service ran the same command beside it."""
    for number, end in enumerate((signal.SIGKILL, signal.SIGTERM)):
        home = tmp_path / str(number)
        home.mkdir()
        caller = subprocess.Popen([sys.executable, "-c", CALLER, ENDLESS, str(home)])
        try:
            text = wait_until(
                lambda home=home: (
                    (home / "pids").exists() and len((home / "pids").read_text().split()) == 2 and (home / "pids").read_text()
                ),
                "the command runs",
            )
        finally:
            os.kill(caller.pid, end)
            caller.wait()
        wait_until(lambda text=text: not any(alive(int(pid)) for pid in text.split()), "all that it started has ended", 10)


def test_a_command_tells_how_it_ended(tmp_path: Path) -> None:
    def run(script: str, **variables: str) -> tuple[int | None, str]:
        end = run_command(["sh", "-c", script], b'{"id": 7}', variables, tmp_path)
        return end.status, end.error

    assert run("cat >event; echo oh dear >&2; exit 3") == (3, "oh dear")
    assert (tmp_path / "event").read_bytes() == b'{"id": 7}'
    assert run("kill -TERM $$") == (-signal.SIGTERM, "")
    assert run("kill -KILL $$") == (-signal.SIGKILL, "")
    assert run('test "$BATCH_ID" = "a b"', BATCH_ID="a b") == (0, "")
    started = time.monotonic()
    assert run("sleep 300 & exit 0") == (0, "") and time.monotonic() - started < 100, "it waits for no other process"
    end = run_command(["no-such-command"], b"", {}, tmp_path)
    assert end.status == 127 and end.error == "no-such-command cannot be run: No such file or directory"


async def test_a_command_that_was_ended_together_with_the_service_has_its_attempt_still(tmp_path: Path) -> None:
    """As a service manager ends all processes of a service at once."""
    settings = Settings(home=tmp_path, on_event=["sh", "-c", "exit 3"])
    settings.state_dir.mkdir()
    store = open_store(settings.database_address, home=settings.home)
    hub = Hub(store, Spool(settings.state_dir / "spool"), settings.state_dir)
    service = NotificationService(settings, hub)
    service.configure()
    service.store.add_event("service.degraded", "vlm")
    (delivery,) = service.store.due(time.time() + 1)
    service.stop()
    service._deliver(str(delivery.sequence))
    assert service.store.delivery(delivery.sequence).attempts == 0
    again = NotificationService(settings, hub)
    again._deliver(str(delivery.sequence))
    after = again.store.delivery(delivery.sequence)
    assert (after.attempts, after.last_status, after.state) == (1, 3, DeliveryState.PENDING)
    await hub.close()
    store.close()
