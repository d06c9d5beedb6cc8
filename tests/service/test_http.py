"""HTTP as real clients and odd ones speak it: versions, upgrades, half-closed sockets, compression, headers."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from running_service import KINDS, WEIGHTLESS, RunningService, wait_until

CHAT = "/v1/chat/completions"
BODY = json.dumps({"messages": [{"role": "user", "content": "one two three"}]}).encode()
STREAM = json.dumps({"messages": [{"role": "user", "content": "one two three"}], "stream": True}).encode()
SLOW = json.dumps({"messages": [{"role": "user", "content": "word " * 400}], "seed": 50}).encode()
"""Twenty seconds of answer."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    variables = {
        **WEIGHTLESS,
        "BATCH_LIMITS__BODY_BYTES": "3000000",
        "BATCH_LIMITS__HOSTS": "host.docker.internal,*.lan.example",
        "BATCH_LIMITS__ORIGINS": "vscode-webview://*,https://*.notes.example",
    }
    with RunningService(tmp_path_factory.mktemp("served"), variables) as service:
        yield service.ready()


def exchange(service: RunningService, request: bytes, kind: str = "vlm", *, half_close: bool = False) -> bytes:
    """Everything the service answers to these bytes until it hangs up; 20 seconds at most."""
    with socket.create_connection(("127.0.0.1", service.ports[kind]), timeout=20) as connection:
        connection.sendall(request)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(1 << 16):
            answer += piece
        return answer


def post(body: bytes, *headers: str, path: str = CHAT, version: str = "1.1") -> bytes:
    lines = [f"POST {path} HTTP/{version}", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def split(answer: bytes) -> tuple[int, str, bytes]:
    """Status, headers in lower case, body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode().lower(), body


def ask(service: RunningService, method: str, path: str, headers: dict[str, str], body: Any = None, kind: str = "vlm") -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", service.ports[kind], timeout=20)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


# -- versions and upgrades


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "upgrade",
    [
        ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"),
        (
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version: 13",
        ),
        ("Connection: keep-alive, Upgrade", "Upgrade: TLS/1.0, HTTP/1.1"),
    ],
)
def test_a_wish_to_upgrade_is_passed_over_and_the_body_kept_on_every_port(
    served: RunningService, kind: str, upgrade: tuple[str, ...]
) -> None:
    status, _, body = split(exchange(served, post(BODY, *upgrade, "Connection: close"), kind))
    assert status == 200 and json.loads(body)["choices"][0]["message"]["content"] == "one two three "
    chunked = b"POST %s HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n" % CHAT.encode()
    chunked += "\r\n".join([*upgrade, "Connection: close", "", ""]).encode()
    chunked += b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    assert split(exchange(served, chunked, kind))[0] == 200
    get = "\r\n".join(["GET /health HTTP/1.1", "Host: localhost", *upgrade, "Connection: close", "", ""]).encode()
    assert split(exchange(served, get, kind))[0] == 200


def test_upgrades_that_come_in_pieces_or_one_behind_another_are_all_answered(served: RunningService) -> None:
    request = post(BODY, "Connection: Upgrade", "Upgrade: h2c")
    with socket.create_connection(("127.0.0.1", served.ports["vlm"]), timeout=20) as connection:
        for at in range(0, len(request), 7):
            connection.sendall(request[at : at + 7])
        connection.sendall(request * 2 + post(BODY, "Connection: close"))
        answer = b""
        while piece := connection.recv(1 << 16):
            answer += piece
    assert answer.count(b"HTTP/1.1 200") == 4


@pytest.mark.skipif(shutil.which("curl") is None, reason="this machine has no curl")
def test_curl_may_offer_http2(served: RunningService) -> None:
    words = ["curl", "-sS", "--http2", "-d", BODY.decode(), "-H", "Content-Type: application/json", served.url("vlm", CHAT)]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0 and "one two three" in ran.stdout, ran.stderr


JAVA = """
import java.net.URI;
import java.net.http.*;

public class Client {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (String address : arguments) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(address))
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(System.getenv("BODY")))
                .build();
            HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.body());
        }
    }
}
"""


@pytest.mark.skipif(shutil.which("java") is None, reason="this machine has no Java")
def test_javas_http_client_works_as_it_comes(served: RunningService, tmp_path: Path) -> None:
    source = tmp_path / "Client.java"
    source.write_text(JAVA)
    words = ["java", str(source), *(served.url(kind, CHAT) for kind in KINDS)]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=120, env={**os.environ, "BODY": BODY.decode()})
    lines = ran.stdout.splitlines()
    assert ran.returncode == 0 and len(lines) == 3, ran.stderr
    assert all(line.startswith("200 ") and "one two" in line for line in lines)


def test_http_1_0_gets_no_chunks_and_the_end_of_the_connection_ends_a_stream(served: RunningService) -> None:
    status, head, body = split(exchange(served, post(STREAM, version="1.0")))
    assert status == 200 and "transfer-encoding" not in head and "connection: close" in head
    assert body.startswith(b"data: {") and body.endswith(b"data: [DONE]\n\n")
    status, head, body = split(exchange(served, post(BODY, version="1.0")))
    assert status == 200 and json.loads(body)["choices"]
    old = b"POST %s HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (CHAT.encode(), len(BODY), BODY)
    status, _, body = split(exchange(served, old))
    assert status == 400 and b"HTTP/1.0 has no Transfer-Encoding" in body


# -- half-closed


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "streamed"])
def test_a_client_that_has_closed_its_sending_half_gets_its_answer(served: RunningService, body: bytes) -> None:
    status, _, answer = split(exchange(served, post(body), half_close=True))
    assert status == 200 and b"three" in answer
    assert split(exchange(served, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", half_close=True))[0] == 200


def test_a_half_closed_client_is_waited_for_and_one_that_then_goes_is_not(served: RunningService) -> None:
    slow = json.dumps({"messages": [{"role": "user", "content": "word " * 30}], "seed": 50}).encode()
    status, _, answer = split(exchange(served, post(slow), half_close=True))
    assert status == 200 and json.loads(answer)["choices"][0]["message"]["content"] == "word " * 30
    connection = socket.create_connection(("127.0.0.1", served.ports["vlm"]), timeout=20)
    connection.sendall(post(SLOW))
    connection.shutdown(socket.SHUT_WR)
    wait_until(lambda: served.get("vlm", "/slots")[1][0]["is_processing"], "it runs")
    connection.close()
    wait_until(lambda: served.states("vlm")[0] == "cancelled", "its job is cancelled", 10)


def test_half_a_request_is_not_answered_when_its_sender_stops(served: RunningService) -> None:
    for cut in (post(BODY)[:-5], b"POST %s HTTP/1.1\r\nHost: loc" % CHAT.encode(), b""):
        started = time.monotonic()
        assert exchange(served, cut, half_close=True) == b"" and time.monotonic() - started < 30


# -- compression


@pytest.mark.parametrize(
    ("coding", "compressed"),
    [
        ("gzip", gzip.compress(BODY)),
        ("GZIP", gzip.compress(BODY)),
        ("x-gzip", gzip.compress(BODY)),
        ("deflate", zlib.compress(BODY)),
        ("gzip", gzip.compress(BODY[:20]) + gzip.compress(BODY[20:])),
        ("identity", BODY),
        ("", BODY),
    ],
    ids=["gzip", "GZIP", "x-gzip", "deflate", "two members", "identity", "none"],
)
def test_a_compressed_body_is_read(served: RunningService, coding: str, compressed: bytes) -> None:
    status, _, answer = ask(served, "POST", CHAT, {"Content-Encoding": coding}, compressed)
    assert status == 200 and b"one two three" in answer


@pytest.mark.parametrize(
    ("coding", "body", "status", "words"),
    [
        ("br", BODY, 415, "gzip or deflate"),
        ("zstd", BODY, 415, "gzip or deflate"),
        ("gzip, gzip", gzip.compress(gzip.compress(BODY)), 415, "gzip or deflate"),
        ("gzip", BODY, 400, "Content-Encoding"),
        ("gzip", gzip.compress(BODY)[:-12], 400, "ends in the middle"),
        ("gzip", b"", 400, "ends in the middle"),
        ("gzip", gzip.compress(b'{"x":"' + b"a" * 200_000_000 + b'"}', 1), 413, "limits.body_bytes"),
        ("deflate", zlib.compress(b" " * 50_000_000), 413, "limits.body_bytes"),
    ],
    ids=["br", "zstd", "twice", "not gzip", "cut gzip", "empty gzip", "gzip bomb", "deflate bomb"],
)
def test_a_compressed_body_is_decoded_within_its_limit_or_refused(
    served: RunningService, coding: str, body: bytes, status: int, words: str
) -> None:
    started = time.monotonic()
    told, _, answer = ask(served, "POST", CHAT, {"Content-Encoding": coding}, body)
    assert told == status and words in json.loads(answer)["error"]["message"] and time.monotonic() - started < 30


def test_a_compressed_form_is_read_too(served: RunningService) -> None:
    form = b"--b\r\nContent-Disposition: form-data; name=file; filename=a.wav\r\n\r\nRIFF\r\n--b--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=b", "Content-Encoding": "gzip"}
    status, _, answer = ask(served, "POST", "/inference", headers, gzip.compress(form), "stt")
    assert status == 200 and b"a file of 4 bytes" in answer


# -- methods and headers


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "path", ["/health", "/v1/health", "/v1/models", "/models", "/props", "/slots", "/metrics", "/openapi.json"]
)
def test_head_is_answered_wherever_get_is(served: RunningService, kind: str, path: str) -> None:
    got, headed = ask(served, "GET", path, {}, kind=kind), ask(served, "HEAD", path, {}, kind=kind)
    assert got[0] == headed[0] == 200 and headed[2] == b""
    assert got[1]["content-type"] == headed[1]["content-type"] and "content-length" in headed[1]
    assert ask(served, "HEAD", "/nope", {}, kind=kind)[0] == 404


def test_every_answer_has_a_request_id_and_the_clients_own_comes_back(served: RunningService) -> None:
    for method, path, headers, body in (
        ("GET", "/health", {}, None),
        ("GET", "/nope", {}, None),
        ("POST", CHAT, {}, BODY),
        ("POST", CHAT, {}, STREAM),
        ("POST", CHAT, {}, b"{"),
        ("GET", "/health", {"Host": "evil.example"}, None),
    ):
        first, second = ask(served, method, path, headers, body)[1], ask(served, method, path, headers, body)[1]
        assert first["x-request-id"] and first["x-request-id"] != second["x-request-id"]
        own = ask(served, method, path, {**headers, "X-Request-Id": "my-id_1"}, body)[1]
        assert own["x-request-id"] == "my-id_1"
    for wrong in ("a b", "x" * 200, "ü"):
        assert ask(served, "GET", "/health", {"X-Request-Id": wrong})[1]["x-request-id"].startswith("req_")


# -- who may ask


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("host.docker.internal:8080", 200),
        ("HOST.docker.internal", 200),
        ("nas.lan.example:80", 200),
        ("app.localhost:3000", 200),
        ("a.b.localhost", 200),
        ("evil.example", 403),
        ("docker.internal", 403),
        ("host.docker.internal.evil.example", 403),
        ("lan.example", 403),
        ("localhost.evil.example", 403),
        ("notlocalhost", 403),
        (".localhost@evil.example", 403),
    ],
)
def test_hosts_are_this_machines_names_and_those_that_a_setting_lists(served: RunningService, host: str, status: int) -> None:
    assert ask(served, "GET", "/health", {"Host": host})[0] == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("vscode-webview://0abc123", 200),
        ("https://team.notes.example", 200),
        ("http://app.localhost:5173", 200),
        ("https://notes.example", 403),
        ("https://evil.example/.notes.example", 403),
        ("https://evil.example#.notes.example", 403),
        ("vscode-file://vscode-app", 403),
        ("null", 403),
    ],
)
def test_origins_may_be_patterns(served: RunningService, origin: str, status: int) -> None:
    told, headers, _ = ask(served, "POST", CHAT, {"Origin": origin}, BODY)
    assert told == status
    assert headers.get("access-control-allow-origin") == (
        origin if status == 200 else headers.get("access-control-allow-origin")
    )


def test_a_preflight_of_private_network_access_is_answered(served: RunningService) -> None:
    headers = {
        "Origin": "vscode-webview://0abc",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Private-Network": "true",
    }
    status, told, _ = ask(served, "OPTIONS", CHAT, headers)
    assert status == 204 and told["access-control-allow-private-network"] == "true"
    del headers["Access-Control-Request-Private-Network"]
    assert "access-control-allow-private-network" not in ask(served, "OPTIONS", CHAT, headers)[1]
    assert ask(served, "OPTIONS", CHAT, {**headers, "Origin": "https://evil.example"})[0] == 403


@pytest.mark.parametrize(
    ("headers", "method", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, "GET", 403),
        ({"Sec-Fetch-Site": "cross-site"}, "POST", 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, "GET", 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, "GET", 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, "POST", 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, "GET", 200),
        ({"Sec-Fetch-Site": "none"}, "GET", 200),
        ({"Sec-Fetch-Site": "same-origin"}, "GET", 200),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost:3000"}, "GET", 200),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, "GET", 403),
    ],
)
def test_another_sites_page_is_refused_also_where_it_names_no_origin(
    served: RunningService, headers: dict[str, str], method: str, status: int
) -> None:
    path, body = ("/health", None) if method == "GET" else (CHAT, BODY)
    assert ask(served, method, path, headers, body)[0] == status


# -- one address for everything


@pytest.mark.parametrize("kind", KINDS)
def test_each_port_answers_the_routes_of_all_three(served: RunningService, kind: str) -> None:
    status, _, answer = ask(served, "GET", "/v1/models", {}, kind=kind)
    assert status == 200 and len(json.loads(answer)["data"]) == 3
    assert ask(served, "POST", CHAT, {}, BODY, kind)[0] == 200
    assert ask(served, "POST", "/v1/embeddings", {}, json.dumps({"input": "x"}), kind)[0] == 200
    form = b"--b\r\nContent-Disposition: form-data; name=file; filename=a.wav\r\n\r\nRIFF\r\n--b--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert ask(served, "POST", "/v1/audio/transcriptions", headers, form, kind)[0] == 200


def test_a_model_of_any_name_is_there(served: RunningService) -> None:
    for name in ("weightless", "gpt-4o", "org/model:tag", "日本"):
        status, _, answer = ask(served, "GET", "/v1/models/" + "".join(f"%{b:02x}" for b in name.encode()), {})
        assert status == 200 and json.loads(answer)["id"] == name
