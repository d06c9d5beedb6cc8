"""What `batch.api.http.http_protocol` uses of uvicorn and httptools below their documented interface is still there."""

from __future__ import annotations

import asyncio
import inspect

import httptools
import pytest
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

SENTENCE = "uvicorn has changed: read its protocol again, mend batch/api/http/http_protocol.py, then raise its upper bound"


@pytest.fixture
def connection() -> HttpToolsProtocol:
    async def app(scope: object, receive: object, send: object) -> None:
        pass

    async def make() -> HttpToolsProtocol:
        return HttpToolsProtocol(Config(app, log_config=None), ServerState(), {}, asyncio.get_running_loop())

    return asyncio.run(make())


@pytest.mark.parametrize(
    "name",
    [
        "connection_made",
        "connection_lost",
        "eof_received",
        "data_received",
        "on_message_begin",
        "on_url",
        "on_header",
        "on_headers_complete",
        "on_body",
        "on_message_complete",
        "on_response_complete",
        "send_400_response",
        "_unset_keepalive_if_required",
    ],
)
def test_the_protocol_still_calls_what_is_overridden(name: str) -> None:
    assert callable(getattr(HttpToolsProtocol, name, None)), SENTENCE


def test_a_connection_still_has_the_state_that_is_read(connection: HttpToolsProtocol) -> None:
    for name in ("parser", "cycle", "pipeline", "transport", "client", "server", "timeout_keep_alive_task", "loop", "flow"):
        assert hasattr(connection, name), f"{name}: {SENTENCE}"
    connection.on_message_begin()
    assert connection.url == b"" and connection.headers == [], SENTENCE


def test_a_request_still_has_the_state_that_is_read_and_set() -> None:
    source = inspect.getsource(RequestResponseCycle)
    for name in (
        *("send", "more_body", "disconnected", "message_event", "keep_alive"),
        *("response_started", "response_complete", "chunked_encoding", "expected_content_length"),
    ):
        assert f"self.{name}" in source or f"def {name}" in source, f"{name}: {SENTENCE}"
    assert "self.receive, self.send" in source, SENTENCE  # looked up when the task begins, so that it can be replaced before
    assert "if self.chunked_encoding is None" in source, SENTENCE


def test_the_parser_still_tells_where_another_protocol_would_begin() -> None:
    parser = httptools.HttpRequestParser(object())
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    head = b"POST / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n"
    with pytest.raises(httptools.HttpParserUpgrade) as caught:
        parser.feed_data(head + b"{}")
    assert caught.value.args[0] == len(head) and parser.should_upgrade()
