"""Who may ask, seen from a real socket."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from typing import Any

import pytest

from running_service import RunningService


@pytest.fixture
def guarded(start_service: Callable[..., RunningService]) -> RunningService:
    return start_service(BATCH_LIMITS__BODY_BYTES="2000", BATCH_LIMITS__ORIGINS='["https://notes.example"]').ready()


def ask(
    service: RunningService,
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes | list[bytes] | None = None,
    port: str = "vlm",
) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", service.ports[port], timeout=20)
    skip_host = "Host" in headers
    connection.putrequest(method, path, skip_host=skip_host)
    for name, value in headers.items():
        connection.putheader(name, value)
    if isinstance(body, list):
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders(iter(body), encode_chunked=True)
    else:
        if body is not None and "Content-Length" not in headers:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
    answer = connection.getresponse()
    answer.text = answer.read().decode()  # type: ignore[attr-defined]
    connection.close()
    return answer


def test_only_this_machine_may_ask(guarded: RunningService) -> None:
    for host in ("localhost", "127.0.0.1", "[::1]", "LOCALHOST:8080", "localhost."):
        assert ask(guarded, "GET", "/health", {"Host": host}).status == 200, host
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil", "10.0.0.1:8080", "", "localhost:80:80"):
        answer = ask(guarded, "GET", "/health", {"Host": host})
        assert answer.status == 403 and "localhost" in answer.text, host  # type: ignore[attr-defined]


def test_pages_of_others_are_refused_also_for_simple_posts(guarded: RunningService) -> None:
    body = b'{"messages":[{"role":"user","content":"hi"}]}'
    for origin in ("https://evil.example", "null", "http://localhost.evil.example", "http://127.0.0.1.evil", "x"):
        answer = ask(guarded, "POST", "/v1/chat/completions", {"Origin": origin, "Content-Type": "text/plain"}, body)
        assert answer.status == 403, origin
        assert answer.getheader("Access-Control-Allow-Origin") in (None, origin)
    for origin in ("http://localhost:3000", "https://127.0.0.1", "http://[::1]:5173", "https://notes.example"):
        answer = ask(guarded, "POST", "/v1/chat/completions", {"Origin": origin, "Content-Type": "application/json"}, body)
        assert answer.status == 200, (origin, answer.text)  # type: ignore[attr-defined]
        assert answer.getheader("Access-Control-Allow-Origin") == origin


def test_a_preflight_of_a_local_page_is_answered(guarded: RunningService) -> None:
    headers = {
        "Origin": "http://localhost:3000",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,x-stainless-os",
    }
    answer = ask(guarded, "OPTIONS", "/v1/chat/completions", headers)
    assert answer.status == 204
    assert answer.getheader("Access-Control-Allow-Headers") == "content-type,x-stainless-os"
    assert ask(guarded, "OPTIONS", "/health", {**headers, "Origin": "https://evil.example"}).status == 403


def test_a_body_over_the_limit_is_refused_however_it_comes(guarded: RunningService) -> None:
    big = b'{"messages":"' + b"x" * 3000 + b'"}'
    for body in (big, [big[:1500], big[1500:]]):
        answer = ask(guarded, "POST", "/v1/chat/completions", {"Content-Type": "application/json"}, body)
        assert answer.status == 413 and "2000 bytes" in answer.text  # type: ignore[attr-defined]
    liar = {"Content-Type": "application/json", "Content-Length": "99999999999"}
    assert ask(guarded, "POST", "/v1/chat/completions", liar).status == 413


@pytest.mark.parametrize(
    ("headers", "status", "kind"),
    [
        ({"Host": "evil.example"}, 403, "permission_error"),
        ({"Origin": "https://evil.example"}, 403, "permission_error"),
        ({"Content-Length": "99999999999"}, 413, "request_too_large"),
    ],
)
def test_a_refusal_has_the_shape_that_a_paths_clients_expect(
    guarded: RunningService, headers: dict[str, str], status: int, kind: str
) -> None:
    def refused(path: str, port: str = "vlm") -> Any:
        answer = ask(guarded, "POST", path, headers, port=port)
        assert answer.status == status
        return json.loads(answer.text)  # type: ignore[attr-defined]

    told = refused("/v1/messages")
    assert told["type"] == "error" and told["error"]["type"] == kind
    sentence = told["error"]["message"]
    for path in ("/inference", "/load"):
        assert refused(path, "stt") == {"error": sentence}
    assert refused("/v1/chat/completions")["error"]["message"] == sentence


def test_unknown_routes_and_methods_are_llama_servers_404(guarded: RunningService) -> None:
    for method, path in (("GET", "/nope"), ("DELETE", "/health"), ("GET", "/v1/completions")):
        answer = ask(guarded, method, path, {})
        assert answer.status == 404 and '"File Not Found"' in answer.text  # type: ignore[attr-defined]
