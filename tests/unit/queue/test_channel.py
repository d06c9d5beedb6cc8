from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from batch.queue.channel import EventStream, WakeListener, Waker, give_notice, socket_path
from batch.queue.frames import Beat, Handed
from batch.queue.jobs import Job, Kind, Lease, Origin, Priority, State
from batch.queue.store import DamagedDatabase


@pytest.fixture(autouse=True)
def without_what_only_linux_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SOCK_CLOEXEC", "SOCK_NONBLOCK", "SO_PEERCRED"):
        monkeypatch.delattr(socket, name, raising=False)


def test_a_worker_is_woken_by_sockets_that_any_system_has(tmp_path: Path) -> None:
    woken = threading.Event()
    listener = WakeListener(tmp_path, "vlm", woken.set)
    waker = Waker(tmp_path)
    try:
        assert not listener._socket.get_inheritable() and not waker._socket.get_inheritable()
        waker.wake("vlm")
        assert woken.wait(10)
    finally:
        waker.close()


def test_events_go_through_sockets_that_any_system_has(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(socket_path(tmp_path, "events")))
        server.listen()
        server.settimeout(10)
        events = EventStream(tmp_path)
        events.send(Beat())
        connection, _ = server.accept()
        with connection:
            assert not events._socket.get_inheritable()
            assert connection.makefile("rb").readline().endswith(b"\n")
        events._socket.close()  # a worker's lives as long as its process
        give_notice(tmp_path, "job-1")
        notice, _ = server.accept()
        with notice:
            assert b"job-1" in notice.makefile("rb").readline()


def test_a_worker_that_failed_at_one_wake_up_hears_the_next_and_is_handed_jobs(tmp_path: Path) -> None:
    woken, heard = threading.Event(), list[Handed]()

    def fail() -> None:
        raise DamagedDatabase("The database is damaged.")

    def receive(handed: Handed) -> None:
        heard.append(handed)
        woken.set()

    WakeListener(tmp_path, "vlm", fail, receive)
    waker = Waker(tmp_path)
    waker.wake("vlm")
    lease = Lease(Job("j1", Kind.VLM, "chat", State.RUNNING, Origin.HTTP, Priority.INTERACTIVE, "{}", 0.0), 1)
    assert waker.hand("w1", lease)
    assert woken.wait(20)
    assert heard == [Handed(worker="w1", lease=lease)]
    waker.close()
