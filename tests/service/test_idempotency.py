"""The same request sent twice under one Idempotency-Key is done once."""

from __future__ import annotations

import http.client
import json
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from running_service import WEIGHTLESS, RunningService, wait_until

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with RunningService(tmp_path_factory.mktemp("keys"), WEIGHTLESS) as service:
        yield service.ready()


class Answer:
    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = answer.status, dict(answer.getheaders()), answer.read()
        self.job = self.headers.get("x-batch-job", "")
        self.replayed = self.headers.get("idempotent-replayed") == "true"

    def json(self) -> Any:
        return json.loads(self.body)


def post(service: RunningService, kind: str, path: str, body: Any, key: str | None, **headers: str) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", service.ports[kind], timeout=60)
    try:
        sent = {"Content-Type": "application/json", **headers} | ({"Idempotency-Key": key} if key else {})
        connection.request("POST", path, data, sent)
        return Answer(connection.getresponse())
    finally:
        connection.close()


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}


def jobs(service: RunningService, kind: str) -> int:
    with sqlite3.connect(service.home / ".batch" / "batch.db") as db:
        found = int(db.execute("select count(*) from job where kind=?", (kind,)).fetchone()[0])
    db.close()
    return found


def rows(service: RunningService, job: str) -> Any:
    with sqlite3.connect(service.home / ".batch" / "batch.db") as db:
        found = db.execute("select state, cancel from job where id=?", (job,)).fetchone()
    db.close()
    return found


def words(stream: bytes) -> str:
    """The text of a chat stream."""
    chunks = [json.loads(line[6:]) for line in stream.decode().splitlines() if line.startswith("data: {")]
    return "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"])


def multipart(boundary: str, language: str = "en", sound: bytes = b"RIFF sound") -> tuple[bytes, dict[str, str]]:
    parts = (
        (
            f'--{boundary}\r\nContent-Disposition: form-data; name="language"\r\n\r\n{language}\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        ).encode()
        + sound
        + f"\r\n--{boundary}--\r\n".encode()
    )
    return parts, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def test_the_same_key_and_body_give_the_first_answer_word_for_word(running: RunningService) -> None:
    before = jobs(running, "vlm")
    first, second = (post(running, "vlm", CHAT, said("tell me"), "k1") for _ in range(2))
    assert (first.status, first.replayed) == (200, False)
    assert (second.status, second.replayed) == (200, True)
    assert second.body == first.body and second.job == first.job
    assert jobs(running, "vlm") == before + 1
    assert post(running, "vlm", CHAT, said("tell me"), None).job != first.job


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": ["one", "two", "three"]}),
        ("/v1/responses", {"input": "tell me more"}),
        ("/v1/messages", said("tell me again", max_tokens=5)),
    ],
)
def test_every_generating_route_keeps_its_key(running: RunningService, path: str, body: Any) -> None:
    first, second = (post(running, "vlm", path, body, f"route {path}") for _ in range(2))
    assert first.status == 200, first.body
    assert second.replayed and second.body == first.body and second.job == first.job


def test_another_body_or_route_under_a_key_is_refused_and_other_ports_know_other_keys(running: RunningService) -> None:
    assert post(running, "vlm", CHAT, said("mine"), "k2").status == 200
    for path, body in ((CHAT, said("yours")), ("/v1/messages", said("mine")), (CHAT, said("mine", stream=True))):
        refused = post(running, "vlm", path, body, "k2")
        assert refused.status == 422 and "k2" in refused.body.decode(), (path, body)
    assert post(running, "embedding", "/v1/embeddings", {"input": "mine"}, "k2").status == 200


def test_embeddings_and_sound_keep_their_keys_whatever_the_boundary_is(running: RunningService) -> None:
    first, second = (post(running, "embedding", "/v1/embeddings", {"input": ["a", "b"]}, "k3") for _ in range(2))
    assert second.replayed and second.body == first.body
    for path in ("/inference", "/v1/audio/transcriptions"):
        (body, kind), (again, other) = multipart("one"), multipart("two")
        first = post(running, "stt", path, body, f"k3{path}", **kind)
        second = post(running, "stt", path, again, f"k3{path}", **other)
        assert first.status == 200 and second.replayed and second.body == first.body
        for changed, kind in (multipart("one", language="de"), multipart("one", sound=b"RIFF noise")):
            assert post(running, "stt", path, changed, f"k3{path}", **kind).status == 422


def test_a_failed_first_result_is_given_again_as_it_was(running: RunningService) -> None:
    for stream in (False, True):
        body = said("refuse this", stream=stream)
        first, second = (post(running, "vlm", CHAT, body, f"k4{stream}") for _ in range(2))
        assert (first.status, second.status, second.replayed) == (400, 400, True)
        assert second.body == first.body


def test_a_request_that_never_became_a_job_leaves_its_key_free(running: RunningService) -> None:
    assert post(running, "vlm", CHAT, {"messages": 5}, "k5").status == 400
    assert post(running, "vlm", CHAT, said("better"), "k5").status == 200


def test_a_stream_repeats_as_a_stream_with_the_same_words(running: RunningService) -> None:
    body = said("one two three four", stream=True)
    first, second = (post(running, "vlm", CHAT, body, "k6") for _ in range(2))
    assert words(second.body) == words(first.body) == "one two three four "
    assert second.replayed and second.headers["content-type"].startswith("text/event-stream")
    assert second.body.rstrip().endswith(b"data: [DONE]")
    ids = {
        json.loads(line[6:])["id"]
        for a in (first, second)
        for line in a.body.decode().splitlines()
        if line.startswith("data: {")
    }
    assert len(ids) == 1


def test_a_repeat_while_the_first_runs_waits_for_the_same_job(running: RunningService) -> None:
    before = jobs(running, "vlm")
    for stream in (False, True):
        body = said("slow " * 20, seed=30, stream=stream)
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: post(running, "vlm", CHAT, body, f"k7{stream}"), range(4)))  # noqa: B023
        assert [a.status for a in answers] == [200] * 4
        assert len({a.job for a in answers}) == 1 and sorted(a.replayed for a in answers) == [False, True, True, True]
        if stream:
            assert {words(a.body) for a in answers} == {"slow " * 20}
        else:
            assert len({a.body for a in answers}) == 1
    assert jobs(running, "vlm") == before + 2


def hold(service: RunningService, body: Any, key: str) -> http.client.HTTPConnection:
    """A caller that sent its request and does not read yet."""
    connection = http.client.HTTPConnection("127.0.0.1", service.ports["vlm"], timeout=60)
    connection.request("POST", CHAT, json.dumps(body), {"Content-Type": "application/json", "Idempotency-Key": key})
    return connection


def keyed(service: RunningService, key: str) -> str | None:
    with sqlite3.connect(service.home / ".batch" / "batch.db") as db:
        found = db.execute("select job from idempotency where kind='vlm' and key=?", (key,)).fetchone()
    db.close()
    return found and str(found[0])


def let_join(service: RunningService, key: str) -> None:
    """Wait until the callers before have joined the key's job: they stand before this one, which is refused, in the
    line of the thread that looks keys up."""
    assert post(service, "vlm", CHAT, said("something else"), key).status == 422


@pytest.mark.parametrize("stream", [False, True])
def test_one_caller_that_hangs_up_takes_nothing_from_another(running: RunningService, stream: bool) -> None:
    body, key = said("slow " * 60, seed=50, stream=stream), f"k8{stream}"
    first = hold(running, body, key)
    job = wait_until(lambda: keyed(running, key), "submitted")
    second = hold(running, body, key)
    let_join(running, key)
    first.close()
    answer = Answer(second.getresponse())
    second.close()
    assert answer.status == 200 and answer.job == job
    text = words(answer.body) if stream else answer.json()["choices"][0]["message"]["content"]
    assert text == "slow " * 60


def test_once_all_have_hung_up_the_job_is_cancelled_and_its_key_is_free(running: RunningService) -> None:
    body = said("slow " * 200, seed=50)
    callers = [hold(running, body, "k9")]
    job = wait_until(lambda: keyed(running, "k9"), "submitted")
    callers.append(hold(running, body, "k9"))
    wait_until(lambda: rows(running, job)[0] == "running", "running")
    let_join(running, "k9")
    for caller in callers:
        caller.close()
    wait_until(lambda: rows(running, job)[0] == "cancelled", "cancelled")
    quick = said("other words")
    again = post(running, "vlm", CHAT, quick, "k9")
    assert again.status == 200 and not again.replayed and again.job != job


@pytest.mark.parametrize("key", ["x" * 256, "tab\there", "caf\u00e9"])
def test_a_key_that_is_no_line_of_ascii_is_refused(running: RunningService, key: str) -> None:
    answer = post(running, "vlm", CHAT, said("hi"), key)
    assert answer.status == 400 and "Idempotency-Key" in answer.body.decode()


def test_two_keys_in_one_request_are_refused(running: RunningService) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", running.ports["vlm"], timeout=20)
    body = json.dumps(said("hi")).encode()
    connection.putrequest("POST", CHAT)
    for name, value in (("Idempotency-Key", "a"), ("Idempotency-Key", "b"), ("Content-Length", str(len(body)))):
        connection.putheader(name, value)
    connection.endheaders(body)
    assert connection.getresponse().status == 400
    connection.close()


def test_the_first_result_outlives_a_restart_and_a_crash(start_service: Callable[..., RunningService]) -> None:
    service = start_service().ready("vlm")
    first = post(service, "vlm", CHAT, said("remember me"), "k10")
    failed = post(service, "vlm", CHAT, said("refuse me"), "k11")
    assert (first.status, failed.status) == (200, 400)
    assert service.stop() == 0
    service.start().ready("vlm")
    assert post(service, "vlm", CHAT, said("remember me"), "k10").body == first.body
    lost = hold(service, said("slow " * 200, seed=50), "k12")
    job = wait_until(lambda: keyed(service, "k12"), "submitted")
    wait_until(lambda: rows(service, job)[0] == "running", "running")
    service.kill()
    lost.close()
    service.start().ready("vlm")
    for body, key, want in ((said("remember me"), "k10", first), (said("refuse me"), "k11", failed)):
        again = post(service, "vlm", CHAT, body, key)
        assert (again.status, again.body, again.replayed) == (want.status, want.body, True)
    # The one that ran had no result: its caller went down with the service, so its key is free.
    anew = post(service, "vlm", CHAT, said("quick"), "k12")
    assert anew.status == 200 and anew.job != job
