"""A small Hugging Face on loopback: repository listing, metadata, a redirect to the file, ranges, and faults."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Serves `files` of one repository. `break_after` cuts every answer after so many bytes, once a file."""

    def __init__(
        self,
        repo: str,
        files: Mapping[str, bytes],
        *,
        break_after: int | None = None,
        claims: Mapping[str, str] | None = None,
        sizes: Mapping[str, int] | None = None,
        commit: str = COMMIT,
        listing: bytes | None = None,
    ) -> None:
        """`claims` and `sizes` are what it lists of its files' sha256 and sizes, where that is not the truth; `listing` is
        sent in place of any list."""
        self.repo, self.files, self.break_after = repo, files, break_after
        self.claims, self.sizes, self.commit, self.listing = claims or {}, sizes or {}, commit, listing
        self.sent = 0
        """Bytes of files that went out."""
        self.ranges: list[str | None] = []
        self.tokens: set[str | None] = set()
        self.broken: set[str] = set()
        hub = self

        class Handler(_Handler):
            owner = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def storage(self) -> str:
        """Another host, as the hub's storage is."""
        return f"http://localhost:{self._server.server_port}/storage"

    def sha256(self, name: str) -> str:
        return self.claims.get(name) or hashlib.sha256(self.files[name]).hexdigest()

    def __enter__(self) -> FakeHub:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    owner: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        hub, path = self.owner, unquote(self.path.split("?")[0])
        hub.tokens.add(self.headers.get("Authorization"))
        resolve = f"/{hub.repo}/resolve/{hub.commit}/"
        revisions = (f"/api/models/{hub.repo}/revision/{name}" for name in ("main", hub.commit))
        if hub.listing is not None and path.startswith("/api/models/"):
            self._send(200, hub.listing, body)
        elif path in revisions:
            siblings = [
                {
                    "rfilename": name,
                    "size": hub.sizes.get(name, len(data)),
                    "blobId": "b",
                    "lfs": {"sha256": hub.sha256(name), "size": hub.sizes.get(name, len(data)), "pointerSize": 135},
                }
                for name, data in hub.files.items()
            ]
            self._send(
                200,
                json.dumps(
                    {
                        "id": hub.repo,
                        "sha": hub.commit,
                        "siblings": siblings,
                        "private": False,
                        "tags": [],
                        "downloads": 0,
                        "likes": 0,
                    }
                ).encode(),
                body,
            )
        elif path.startswith(resolve) and (name := path.removeprefix(resolve)) in hub.files:
            self._send(
                302,
                b"",
                body,
                {
                    "Location": f"{hub.storage}/{name}",
                    "X-Repo-Commit": hub.commit,
                    "X-Linked-Size": str(len(hub.files[name])),
                    "X-Linked-Etag": f'"{hub.sha256(name)}"',
                    "ETag": f'"{hub.sha256(name)}"',
                },
            )
        elif path.startswith("/storage/") and (name := path.removeprefix("/storage/")) in hub.files:
            self._storage(name, body)
        else:
            self._send(404, b"{}", body, {"X-Error-Code": "RepoNotFound"})

    def _storage(self, name: str, body: bool) -> None:
        hub, data = self.owner, self.owner.files[name]
        wanted = self.headers.get("Range")
        hub.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        headers = {"Accept-Ranges": "bytes", "Content-Length": str(len(data) - start)}
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.send_response(206 if wanted else 200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if not body:
            return
        if hub.break_after is not None and name not in hub.broken:
            hub.broken.add(name)
            self.wfile.write(data[start : start + hub.break_after])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        for at in range(start, len(data), 1 << 16):
            self.wfile.write(data[at : at + (1 << 16)])
            hub.sent += len(data[at : at + (1 << 16)])

    def _send(self, status: int, data: bytes, body: bool, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)
