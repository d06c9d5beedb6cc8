"""HEAD: what a GET would answer, ended behind its head, so that no stream is opened and no file read for nobody."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send


async def answer_head(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run an app until it has sent the head of its answer, send that, and end the app."""
    is_sent = asyncio.Event()

    async def send_head(message: Message) -> None:
        if message["type"] != "http.response.start" or is_sent.is_set():
            await asyncio.Event().wait()  # for its end
        await send(message)
        await send({"type": "http.response.body", "body": b""})
        is_sent.set()
        await asyncio.Event().wait()

    running = asyncio.ensure_future(app(scope, receive, send_head))
    sent = asyncio.ensure_future(is_sent.wait())
    try:
        await asyncio.wait((running, sent), return_when=asyncio.FIRST_COMPLETED)
    finally:
        sent.cancel()
        if not running.done():
            running.cancel()
        await asyncio.wait((running,))
    if not running.cancelled() and (error := running.exception()) is not None:
        raise error
