"""Where a front listens for workers, and what is said where it cannot."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from batch.errors import AlreadyRunning, BatchError, SettingsProblem
from batch.queue.remote.open_channel import PortSettings, open_channel
from batch.queue.remote.worker_port.certificate import own_certificate
from batch.queue.remote.worker_port.port import WorkerPort


def test_a_free_port_is_taken_and_announced_with_its_number_or_as_it_is_reached_from_outside(tmp_path: Path) -> None:
    certificate = own_certificate(tmp_path)
    for listen, public in (("127.0.0.1:0", ""), ("[::1]:0", ""), ("localhost:0", ""), ("0.0.0.0:0", "front.example.org:9000")):
        port = WorkerPort(listen, public, "f" * 16, certificate)
        announced = port.bind()
        assert announced.cert_sha256 == certificate.sha256 and announced.front == "f" * 16
        if public:
            assert announced.address == public
        else:
            host, _, number = announced.address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(number)), 10).close()
        port.unbind()


def test_a_port_that_cannot_be_opened_is_one_sentence(tmp_path: Path) -> None:
    certificate = own_certificate(tmp_path)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(AlreadyRunning, match=f"The worker port {address} is in use"):
            WorkerPort(address, "", "f", certificate).bind()
    with pytest.raises(BatchError, match=r"front\.listen\) cannot be opened"):
        WorkerPort("192.0.2.1:9000", "", "f", certificate).bind()


def test_a_home_with_its_jobs_in_a_file_has_no_such_port(tmp_path: Path) -> None:
    with pytest.raises(SettingsProblem, match="set database to the address"):
        open_channel(tmp_path / "batch.db", "", is_front=True, port=PortSettings("127.0.0.1:0", "", tmp_path))
    assert open_channel(tmp_path / "batch.db", "", is_front=True, port=PortSettings("", "", tmp_path)) is None
    assert not (tmp_path / "worker_port.pem").exists()
