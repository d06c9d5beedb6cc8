"""A receiver of webhooks on this machine, which answers what a test tells it to."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class ReceivedEvent(NamedTuple):
    """One POST as it came."""

    headers: dict[str, str]
    body: bytes


class EventReceiver:
    """Its address, what came, and what it answers: the statuses in turn, then 200."""

    def __init__(self) -> None:
        self.received: list[ReceivedEvent] = []
        self.statuses: list[int] = []
        self.delay_s = 0.0
        self.url = ""


@contextmanager
def receiving() -> Iterator[EventReceiver]:
    """A receiver that runs."""
    receiver = EventReceiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            receiver.received.append(ReceivedEvent({k.lower(): v for k, v in self.headers.items()}, body))
            time.sleep(receiver.delay_s)
            status = receiver.statuses.pop(0) if receiver.statuses else 200
            self.send_response(status)
            self.send_header("Location", receiver.url + "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}/events"
    thread = threading.Thread(target=lambda: server.serve_forever(0.02), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
