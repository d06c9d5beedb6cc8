"""Webhook endpoints through OpenAI's own package, with a real service that tells a real receiver."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from event_receiver import EventReceiver, receiving
from running_service import WEIGHTLESS, RunningService, wait_until


@pytest.fixture(scope="module")
def receiver() -> Iterator[EventReceiver]:
    with receiving() as running:
        yield running


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with RunningService(tmp_path_factory.mktemp("home"), WEIGHTLESS) as running:
        yield running.ready()


@pytest.fixture(scope="module")
def client(service: RunningService) -> openai.OpenAI:
    return openai.OpenAI(base_url=service.url("vlm", "/v1"), api_key="none", max_retries=0)


def test_an_endpoint_is_told_of_background_responses_batches_and_files(
    client: openai.OpenAI, service: RunningService, receiver: EventReceiver, tmp_path: Path
) -> None:
    types = ["batch.completed", "response.completed", "file.completed", "file.failed"]
    created = client.webhooks.create(name="mine", url=receiver.url, event_types=types)  # type: ignore[arg-type]
    listed = client.webhooks.list().data
    assert [one.id for one in listed] == [created.id]
    assert listed[0].signing_secret_hint == f"whsec_…{created.signing_secret[-4:]}"
    assert created.signing_secret not in str(listed)
    assert set(types) <= set(client.webhooks.event_types.list().data)
    response = client.responses.create(model="m", input="hello", background=True, extra_body={"seed": 0})
    line = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"input": "x"}}
    file = client.files.create(file=("a.jsonl", json.dumps(line).encode()), purpose="batch").id
    batch = client.batches.create(input_file_id=file, endpoint="/v1/embeddings", completion_window="24h")
    (service.inbox / "note.txt").write_text("a note")
    expected = {("response.completed", response.id), ("batch.completed", batch.id), ("file.completed", "note.txt")}

    def told() -> set[tuple[str, str]]:
        events = [json.loads(body) for _, body in receiver.received]
        return {(event["type"], event["data"]["id"]) for event in events}

    wait_until(lambda: expected <= told(), "all were told", 20)
    reader = openai.OpenAI(api_key="none", webhook_secret=created.signing_secret)
    for headers, body in list(receiver.received):
        reader.webhooks.unwrap(body, headers)
    listing = json.loads(service.command("notifications", "--json").stdout)
    assert {(one["type"], one["state"], one["last_status"]) for one in listing} == {
        (type, "delivered", 200) for type, _ in expected
    }
    count = len(receiver.received)
    service.command("notifications", "send", str(listing[0]["id"]))
    wait_until(lambda: len(receiver.received) == count + 1, "sent once more")
    assert client.webhooks.test(created.id, event_type="batch.failed").status_code == 200
    assert client.webhooks.rotate_secret(created.id).signing_secret != created.signing_secret
    assert client.webhooks.update(created.id, name="other").name == "other"
    assert client.webhooks.delete(created.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.webhooks.retrieve(created.id)


def test_an_endpoint_that_nothing_may_be_sent_to_is_refused(client: openai.OpenAI) -> None:
    for url, types in [
        ("http://10.1.2.3/hook", ["batch.completed"]),
        ("ftp://127.0.0.1/", ["batch.completed"]),
        ("http://127.0.0.1/", ["video.completed"]),
    ]:
        with pytest.raises(openai.BadRequestError):
            client.webhooks.create(name="n", url=url, event_types=types)  # type: ignore[arg-type]
