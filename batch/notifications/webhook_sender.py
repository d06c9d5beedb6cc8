"""One POST of one event: a pinned address, no redirects, a deadline for all of it."""

from __future__ import annotations

import contextlib
import http.client
import math
import socket
import ssl
import threading
import time
from email.utils import parsedate_to_datetime

import msgspec

from batch.notifications.address import WebhookAddress
from batch.notifications.signing import sign

TIMEOUT_S = 15.0
MAX_RETRY_AFTER_S = 24 * 3600.0


class WebhookAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a receiver answered."""

    status: int
    retry_after_s: float = 0.0


def send_webhook(address: WebhookAddress, id: str, body: bytes, secrets: list[str]) -> WebhookAnswer:
    """Post an event. Raises OSError where nobody answers within `TIMEOUT_S`, http.client.HTTPException for no HTTP."""
    timestamp = int(time.time())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "batch-webhooks/1",
        "webhook-id": id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(secrets, id, timestamp, body),
    }
    connection = _PinnedConnection(address)
    # A receiver that sends a byte now and then would never run into the socket's own time-out.
    deadline = threading.Timer(TIMEOUT_S, connection.abort)
    deadline.daemon = True
    deadline.start()
    try:
        connection.request("POST", address.path, body, headers)
        response = connection.getresponse()
        return WebhookAnswer(status=response.status, retry_after_s=_seconds(response.getheader("Retry-After")))
    finally:
        deadline.cancel()
        connection.close()


class _PinnedConnection(http.client.HTTPConnection):
    """Dials the IP that was checked, whatever the name means by now."""

    def __init__(self, address: WebhookAddress) -> None:
        super().__init__(address.host, address.port, timeout=TIMEOUT_S)
        self._address = address
        self._is_aborted = False

    def connect(self) -> None:
        plain = socket.create_connection((self._address.ip, self._address.port), TIMEOUT_S)
        if self._address.scheme == "https":
            self.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=self._address.host)
        else:
            self.sock = plain
        if self._is_aborted:  # while it connected there was no socket to shut
            raise TimeoutError("timed out")

    def abort(self) -> None:
        """End whatever is under way; a connection that is being made ends once it stands."""
        self._is_aborted = True
        if self.sock is not None:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)


def _seconds(text: str | None) -> float:
    """Retry-After in seconds, from a number or a date; nonsense counts as none."""
    text = (text or "").strip()
    try:
        seconds = float(text) if text[:1].isdigit() else parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0
    return min(MAX_RETRY_AFTER_S, max(0.0, seconds)) if math.isfinite(seconds) else 0.0
