"""Who may speak with a front's worker port, and with whom a worker speaks."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import psycopg
import pytest

from batch.payloads.json_text import encode
from batch.queue.jobs import Kind
from batch.queue.open_store import open_store
from batch.queue.remote.worker_port.certificate import own_certificate
from batch.queue.remote.worker_port.frame import MAX_FRAME_BYTES, Wakened, Welcome
from database_roles import RoleAddresses
from ears import until, word
from played_homes import PlayedHome, counted
from port_client import PortClient, dialled

pytestmark = pytest.mark.postgres
Home = Callable[..., PlayedHome]


@pytest.fixture
def front(home: Home) -> PlayedHome:
    return home(listen="127.0.0.1:0")


@pytest.fixture
def machine(home: Home, front: PlayedHome) -> PlayedHome:
    """Its stream stands, so its nonce is in its row."""
    machine = home(is_front=False)
    machine.wait_for_stream(front)
    return machine


def nonce_of(home: PlayedHome) -> str:
    return home.channel._dialer.nonce


def test_who_knows_the_nonce_of_a_living_worker_is_let_in(front: PlayedHome, machine: PlayedHome) -> None:
    with dialled(front.bound_address) as client:
        client.prove(machine.id, nonce_of(machine))
        assert isinstance(client.receive(), Welcome)


def test_a_machine_that_wakes_what_no_queue_is_called_wakes_nothing(front: PlayedHome, machine: PlayedHome) -> None:
    with dialled(front.bound_address) as client:
        client.prove(machine.id, nonce_of(machine))
        assert isinstance(client.receive(), Welcome)
        client.send(encode(Wakened(queues=["../../elsewhere", "/tmp/elsewhere", "", "vlm/../x", Kind.VLM])))
        front.ears.wait(lambda: front.ears.woken, "what is one is woken")
    assert front.ears.woken == [Kind.VLM]


def test_a_wrong_nonce_and_the_name_of_another_home_are_turned_away(front: PlayedHome, machine: PlayedHome) -> None:
    for home, nonce in ((machine.id, "0" * 64), (machine.id, ""), ("f" * 16, nonce_of(machine)), (front.id, nonce_of(machine))):
        with dialled(front.bound_address) as client:
            client.prove(home, nonce)
            assert client.receive() is None, (home, nonce)


def test_a_proof_that_was_seen_before_is_worth_nothing_on_another_stream(front: PlayedHome, machine: PlayedHome) -> None:
    with dialled(front.bound_address) as client:
        proof = client.prove(machine.id, nonce_of(machine))
        assert isinstance(client.receive(), Welcome)
    with dialled(front.bound_address) as thief:
        assert thief.receive() is not None, "a challenge of its own"
        thief.send(msgspec.json.encode(proof))
        assert thief.receive() is None


def test_the_nonce_of_a_worker_that_is_not_heard_of_any_more_opens_nothing(
    front: PlayedHome, machine: PlayedHome, url: str
) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("update node set beat = beat - interval '1 hour'")
    with dialled(front.bound_address) as client:
        client.prove(machine.id, nonce_of(machine))
        assert client.receive() is None


@pytest.mark.parametrize(
    "data",
    [b"\xff\xff\xff\xff", b"\x00\x00\x10\x01" + b"x" * 4097, b"\x00\x00\x00\x02{}", b"\x00\x00\x00\x03\xff{]"],
    ids=["endless", "over the bound", "no frame", "no JSON"],
)
def test_what_is_no_proof_or_longer_than_one_ends_the_connection_at_once(front: PlayedHome, data: bytes) -> None:
    with dialled(front.bound_address) as client:
        client.send_bytes(data)
        assert client.is_hung_up()


def test_a_frame_that_is_longer_than_any_ends_the_stream_of_a_proven_peer_too(front: PlayedHome, machine: PlayedHome) -> None:
    with dialled(front.bound_address) as client:
        client.prove(machine.id, nonce_of(machine))
        assert isinstance(client.receive(), Welcome)
        client.send_bytes((MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
        assert client.is_hung_up()


def test_a_peer_that_takes_its_time_is_closed_and_those_that_wait_beside_it_are_few(
    front: PlayedHome, machine: PlayedHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch.queue.remote.worker_port.port.HANDSHAKE_S", 2.0)
    monkeypatch.setattr("batch.queue.remote.worker_port.port.MAX_UNPROVEN", 3)
    host, _, port = front.bound_address.rpartition(":")
    with contextlib.ExitStack() as connections:

        def silent() -> socket.socket:
            return connections.enter_context(socket.create_connection((host, int(port)), 20))

        first = [silent() for _ in range(2)]
        client = connections.enter_context(contextlib.closing(PortClient(front.bound_address)))
        assert client.receive() is not None, "TLS is done, and no proof comes"
        assert silent().recv(1) == b"", "one too many: closed at once"
        for connection in first:
            assert connection.recv(1) == b"", "closed in time"
        assert client.is_hung_up()
    with dialled(front.bound_address) as client:
        client.prove(machine.id, nonce_of(machine))
        assert isinstance(client.receive(), Welcome), "afterwards workers are let in again"
    machine.channel.send(front.id, word("still there"))
    front.ears.wait(lambda: front.ears.texts() == ["still there"], "streams that were proven are not touched")


def test_without_encryption_nothing_is_said(front: PlayedHome) -> None:
    host, _, port = front.bound_address.rpartition(":")
    with socket.create_connection((host, int(port)), 20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"challenge" not in b"".join(iter(lambda: connection.recv(1 << 16), b""))


class PretendedFront:
    """Has the address that a front's row names, and a certificate of its own."""

    def __init__(self, folder: Path) -> None:
        self.heard = b""
        self.connections = 0
        self.certificate = own_certificate(folder)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        context = self.certificate.server_context()
        with contextlib.suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                with contextlib.suppress(OSError, ssl.SSLError), context.wrap_socket(plain, server_side=True) as stream:
                    stream.settimeout(10)
                    self.connections += 1
                    self.heard += stream.recv(1 << 16)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def test_a_worker_says_nothing_to_a_front_whose_certificate_is_not_that_of_its_row(
    home: Home, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    front, pretended = home(), PretendedFront(tmp_path / "pretended")
    with psycopg.connect(url, autocommit=True) as conn, caplog.at_level(logging.WARNING), counted(url, front.id) as notified:
        conn.execute("select announce_port(%s, %s, %s, 30)", (front.id, pretended.address, "0" * 64))
        machine = home(is_front=False)
        machine.channel.send(front.id, word("by the database"))
        front.ears.wait(lambda: front.ears.texts() == ["by the database"], "it arrives all the same")
        until(lambda: pretended.connections > 1, "it tries again")
        until(lambda: notified.payloads, "by NOTIFY")
    pretended.close()
    assert pretended.heard == b""
    told = [record.getMessage() for record in caplog.records if "worker port" in record.getMessage()]
    assert len(told) == 1 and "its certificate is not the one that its row in the database names" in told[0]


def test_a_workers_role_dials_and_can_take_no_other_homes_name(home: Home, roles: RoleAddresses) -> None:
    front = home(url=roles.front, listen="127.0.0.1:0")
    machine = home(url=roles.worker, is_front=False, owner=roles.owner)
    machine.wait_for_stream(front)
    machine.channel.send(front.id, word("from a role that may do little"))
    front.ears.wait(front.ears.texts, "it arrives")
    with psycopg.connect(roles.worker, autocommit=True) as conn:
        for statement in ("select nonces_of_home(%s, 30)", "select nonce from node where home = %s"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(statement.encode(), (machine.id,))
        conn.execute("select * from worker_ports(%s, %s, 30, 30)", (machine.id, "f" * 64))
    with dialled(front.bound_address) as client:
        client.prove(machine.id, "f" * 64)
        assert client.receive() is None


def test_the_nonce_itself_never_goes_over_the_line_and_leaves_with_its_worker(
    front: PlayedHome, machine: PlayedHome, url: str
) -> None:
    with dialled(front.bound_address) as client:
        assert nonce_of(machine) not in str(client.prove(machine.id, nonce_of(machine)))
    with contextlib.closing(open_store(url)) as store:
        store.leave(machine.worker)
    with dialled(front.bound_address) as client:
        client.prove(machine.id, nonce_of(machine))
        assert client.receive() is None
