"""The page of a running service: on the chat model's port alone, unless it is turned off."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable

from running_service import RunningService, wait_until


def answer(service: RunningService, kind: str, path: str, **headers: str) -> tuple[int, str, str]:
    """(status, content type, text) of a GET."""
    request = urllib.request.Request(service.url(kind, path), headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.headers.get("content-type", ""), response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers.get("content-type", ""), error.read().decode()


def test_the_page_is_on_the_chat_port_alone_and_shows_what_was_dropped(start_service: Callable[..., RunningService]) -> None:
    service = start_service()
    (service.inbox / "note.txt").write_text("a note about otters")
    wait_until(lambda: (service.outbox / "note.txt.json").exists(), "a result")
    wait_until(lambda: "note.txt" in answer(service, "vlm", "/", Accept="text/html")[2], "the file in the gallery")
    status, kind, page = answer(service, "vlm", "/page/search?q=otters")
    assert (status, kind) == (200, "text/html; charset=utf-8") and "<mark>otters</mark>" in page
    assert json.loads(answer(service, "vlm", "/page/status", Accept="application/json")[2])["running"] is True
    with urllib.request.urlopen(service.url("vlm", "/page/events"), timeout=30) as stream:
        assert any(line.startswith(b"data: ") and b'"done_today"' in line for line in (stream.readline() for _ in range(8)))
    for other in ("embedding", "stt"):
        status, kind, text = answer(service, other, "/", Accept="text/html")
        assert (status, kind) == (404, "application/json") and "File Not Found" in text
        assert answer(service, other, "/page/status")[0] == 404
    assert "/page/" not in answer(service, "vlm", "/openapi.json")[2]


def test_the_page_can_be_turned_off(start_service: Callable[..., RunningService]) -> None:
    service = start_service(BATCH_PAGE__ENABLED="false")
    for path in ("/", "/page/status", "/page/files"):
        status, _, text = answer(service, "vlm", path, Accept="text/html")
        assert status == 404 and "File Not Found" in text
