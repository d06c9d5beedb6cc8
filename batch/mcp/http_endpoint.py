"""`/mcp` on the port of the chat model: the same tools over streamable HTTP, without sessions, behind the port's own guard."""

from __future__ import annotations

import asyncio

from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from starlette.types import Receive, Scope, Send

from batch.mcp.server import make_server
from batch.queue.store import Store
from batch.settings import Settings

OWN_HOSTS = ("127.0.0.1", "localhost", "[::1]")


class McpEndpoint:
    """An ASGI app that answers while `run` runs."""

    def __init__(self, settings: Settings, store: Store, port: int) -> None:
        hosts = [f"{host}:{port}" for host in OWN_HOSTS]
        server = make_server(settings, store)
        server.streamable_http_app(
            stateless_http=True,
            json_response=False,
            max_request_body_size=settings.limits.body_bytes,
            transport_security=TransportSecuritySettings(
                allowed_hosts=hosts, allowed_origins=[f"http://{host}" for host in hosts]
            ),
        )
        self._sessions: StreamableHTTPSessionManager = server.session_manager
        self._app = StreamableHTTPASGIApp(self._sessions)

    async def run(self) -> None:
        """Serve until cancelled."""
        async with self._sessions.run():
            await asyncio.Event().wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)
