"""A program that dials a worker port by hand, with whatever it likes to send."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator

import msgspec

from batch.queue.remote.worker_port.certificate import client_context, sha256_of
from batch.queue.remote.worker_port.frame import Challenge, Handshake, Proof, answer_to


class PortClient:
    """One connection, its TLS done."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = client_context().wrap_socket(socket.create_connection((host, int(port)), 10))
        self._socket.settimeout(20)
        self.cert_sha256 = sha256_of(self._socket.getpeercert(binary_form=True))

    def send(self, data: bytes) -> None:
        """A frame of any bytes."""
        self.send_bytes(len(data).to_bytes(4, "big") + data)

    def send_bytes(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # hung up on meanwhile: what it answered tells
            self._socket.sendall(data)

    def receive(self) -> Handshake | None:
        """The next frame of the handshake; None when it hung up."""
        try:
            head = self._exactly(4)
            data = self._exactly(int.from_bytes(head, "big"))
        except (EOFError, ConnectionError, ssl.SSLError):
            return None
        return msgspec.json.decode(data, type=Handshake)

    def prove(self, home: str, nonce: str) -> Proof:
        """Answer the challenge; what was sent."""
        challenge = self.receive()
        assert isinstance(challenge, Challenge)
        proof = Proof(home=home, answer=answer_to(challenge, nonce, self.cert_sha256, home), sender="client")
        self.send(msgspec.json.encode(proof))
        return proof

    def is_hung_up(self) -> bool:
        """Wait until the other end closes, for twenty seconds at most, whatever it sends before."""
        try:
            while self._socket.recv(1 << 16):
                pass
        except TimeoutError:
            return False
        except OSError:
            return True
        return True

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def dialled(address: str) -> Iterator[PortClient]:
    client = PortClient(address)
    try:
        yield client
    finally:
        client.close()
