"""Stored and background responses and conversations, through OpenAI's own package, with a real service behind them."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from batch.queue.jobs import Priority
from paths import DATA
from running_service import WEIGHTLESS, RunningService, wait_until

ENDED = ("completed", "incomplete", "failed", "cancelled")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with RunningService(tmp_path_factory.mktemp("home"), WEIGHTLESS) as running:
        yield running.ready("vlm")


@pytest.fixture(scope="module")
def client(service: RunningService) -> openai.OpenAI:
    return client_of(service)


def client_of(service: RunningService) -> openai.OpenAI:
    return openai.OpenAI(base_url=service.url("vlm", "/v1"), api_key="none", max_retries=0, timeout=30)


def slow(pause_ms: int) -> dict[str, Any]:
    """The engine without weights takes the seed for milliseconds a word."""
    return {"extra_body": {"seed": pause_ms}}


def ended(client: openai.OpenAI, id: str) -> Any:
    def look() -> Any:
        response = client.responses.retrieve(id)
        return response if response.status in ENDED else None

    return wait_until(look, f"{id} ended", 60)


def test_a_response_can_be_fetched_as_it_was_answered(client: openai.OpenAI) -> None:
    response = client.responses.create(model="any", input="hello there", metadata={"who": "me"})
    assert response.store and response.output_text == "hello there "
    again = client.responses.retrieve(response.id)
    assert again.model_dump() == response.model_dump()
    assert client.responses.delete(response.id) is None
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_a_response_that_is_not_to_be_stored_is_not(client: openai.OpenAI) -> None:
    response = client.responses.create(model="any", input="hello", store=False)
    assert response.store is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_a_streamed_response_is_stored_before_its_last_event(client: openai.OpenAI) -> None:
    with client.responses.stream(model="any", input="one two three") as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert events[0].type == "response.created" and events[-1].type == "response.completed"
    follow_up = client.responses.create(model="any", input="four", previous_response_id=final.id)
    assert follow_up.previous_response_id == final.id
    assert client.responses.retrieve(final.id).output_text == "one two three "


def test_a_chain_goes_on_from_every_turn_before(client: openai.OpenAI) -> None:
    first = client.responses.create(
        model="any", input=[{"role": "system", "content": "be brief"}, {"role": "user", "content": "a"}]
    )
    second = client.responses.create(model="any", input="b", previous_response_id=first.id)
    third = client.responses.create(model="any", input="c", previous_response_id=second.id)
    client.responses.delete(first.id)
    items = list(client.responses.input_items.list(third.id, order="asc"))
    roles = [getattr(item, "role", item.type) for item in items]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]
    assert len({item.id for item in items}) == 6
    listed = [item.id for item in client.responses.input_items.list(third.id, limit=2)]
    assert listed == [item.id for item in items][::-1]


def test_what_is_not_there_is_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(model="any", input="x", previous_response_id="resp_none")
    assert error.value.code == "previous_response_not_found" and error.value.param == "previous_response_id"
    with pytest.raises(openai.NotFoundError) as missing:
        client.responses.create(model="any", input=[{"type": "item_reference", "id": "msg_none"}])
    assert missing.value.param == "input" and "Item with id 'msg_none' not found." in missing.value.message
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model="any", input="x", previous_response_id="resp_x", conversation="conv_x")
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="any", input="x", conversation="conv_none")


def test_an_item_is_referred_to_by_its_id(client: openai.OpenAI) -> None:
    first = client.responses.create(model="any", input="the first")
    reference: Any = {"type": "item_reference", "id": first.output[0].id}
    second = client.responses.create(model="any", input=[reference, {"role": "user", "content": "go on"}])
    (said, _) = client.responses.input_items.list(second.id, order="asc")
    assert said.id == first.output[0].id and said.content[0].text == "the first "  # type: ignore[union-attr]


def test_a_call_without_its_output_cannot_be_gone_on_from(client: openai.OpenAI) -> None:
    call: Any = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
    conversation = client.conversations.create(items=[call])
    with pytest.raises(openai.BadRequestError, match="No tool output found for function call call_1"):
        client.responses.create(model="any", input="well?", conversation=conversation.id)
    output: Any = {"type": "function_call_output", "call_id": "call_1", "output": "42"}
    assert client.responses.create(model="any", input=[output], conversation=conversation.id).status == "completed"


def test_pictures_of_a_chain_are_kept_once_and_shown_on_request(client: openai.OpenAI, service: RunningService) -> None:
    url = "data:image/png;base64," + base64.b64encode((DATA / "sample-red-circle.png").read_bytes()).decode()
    content: Any = [{"type": "input_text", "text": "what"}, {"type": "input_image", "image_url": url, "detail": "auto"}]
    first = client.responses.create(model="any", input=[{"role": "user", "content": content}])
    second = client.responses.create(model="any", input="and now?", previous_response_id=first.id)
    assert second.status == "completed"
    shown: Any = next(
        iter(client.responses.input_items.list(second.id, order="asc", include=["message.input_image.image_url"]))
    )
    assert shown.content[1].image_url == url
    hidden: Any = next(iter(client.responses.input_items.list(second.id, order="asc")))
    assert not getattr(hidden.content[1], "image_url", None)


def test_a_conversation_grows_by_what_is_said_in_it(client: openai.OpenAI) -> None:
    conversation = client.conversations.create(metadata={"topic": "tests"}, items=[])
    response = client.responses.create(model="any", input="hello", conversation=conversation.id)
    assert response.conversation is not None and response.conversation.id == conversation.id
    client.responses.create(model="any", input="again", conversation=conversation.id)
    items: Any = list(client.conversations.items.list(conversation.id, order="asc"))
    assert [item.content[0].text for item in items] == ["hello", "hello ", "again", "again "]
    assert [item.id for item in client.conversations.items.list(conversation.id, limit=2)] == [i.id for i in items][::-1]
    client.conversations.items.delete(items[0].id, conversation_id=conversation.id)
    assert client.conversations.items.retrieve(items[1].id, conversation_id=conversation.id).id == items[1].id
    assert client.conversations.update(conversation.id, metadata={"topic": "more"}).metadata == {"topic": "more"}
    assert client.conversations.delete(conversation.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(conversation.id)


def test_a_second_response_on_a_conversation_that_runs_is_refused(client: openai.OpenAI) -> None:
    conversation = client.conversations.create(items=[])
    first = client.responses.create(
        model="any", input="one two three four", conversation=conversation.id, background=True, **slow(300)
    )
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(model="any", input="me too", conversation=conversation.id)
    assert error.value.code == "conversation_locked" and error.value.param == "conversation"
    assert ended(client, first.id).status == "completed"
    assert client.responses.create(model="any", input="now", conversation=conversation.id).status == "completed"


def test_a_background_response_is_answered_while_nobody_waits(client: openai.OpenAI) -> None:
    response = client.responses.create(model="any", input="one two", background=True, **slow(1))
    assert response.status == "queued" and response.background and response.output == []
    done = ended(client, response.id)
    assert done.status == "completed" and done.output_text == "one two " and done.completed_at


def test_a_background_stream_is_taken_up_again_at_any_number(client: openai.OpenAI) -> None:
    first: list[Any] = []
    id = ""
    with client.responses.create(model="any", input="a b c d e f", background=True, stream=True, **slow(200)) as stream:
        for event in stream:
            first.append(event)
            id = event.response.id if event.type == "response.created" else id
            if event.type == "response.output_text.delta":
                break
    assert [event.type for event in first[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert client.responses.retrieve(id).status == "in_progress", "what is generated is sent as it comes"
    rest = list(client.responses.retrieve(id, stream=True, starting_after=first[-1].sequence_number))
    numbers = [event.sequence_number for event in [*first, *rest]]
    assert numbers == list(range(len(numbers)))
    assert rest[-1].type == "response.completed" and rest[-1].response.output_text == "a b c d e f "
    whole = list(client.responses.retrieve(id, stream=True))
    assert [event.model_dump() for event in whole] == [event.model_dump() for event in [*first, *rest]]


def test_a_response_that_was_not_streamed_can_be_streamed_later(client: openai.OpenAI) -> None:
    response = client.responses.create(model="any", input="one two")
    events = list(client.responses.retrieve(response.id, stream=True))
    assert events[0].type == "response.created" and events[-1].type == "response.completed"
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == "one two " and events[-1].response.model_dump() == response.model_dump()  # type: ignore[union-attr]


def test_cancelling_ends_a_background_response_and_never_changes_again(client: openai.OpenAI) -> None:
    response = client.responses.create(model="any", input="word " * 50, background=True, **slow(200))
    wait_until(lambda: client.responses.retrieve(response.id).status == "in_progress", "it runs", 30)
    assert client.responses.cancel(response.id).status == "cancelled"
    assert client.responses.cancel(response.id).status == "cancelled"
    events = list(client.responses.retrieve(response.id, stream=True))
    assert events[-1].type == "response.failed" and events[-1].response.status == "cancelled"
    done = client.responses.create(model="any", input="x")
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(done.id)


@pytest.mark.parametrize("killed", ["worker", "service"])
def test_a_background_response_survives_the_end_of_its_worker_and_of_its_service(tmp_path: Path, killed: str) -> None:
    """The words that were sent stay, and so do the ids and numbers; what comes goes on behind them."""
    with RunningService(tmp_path, WEIGHTLESS) as service:
        client = client_of(service.ready("vlm"))
        text = " ".join(f"word{n}" for n in range(20))
        id, first = "", []
        with client.responses.create(model="any", input=text, background=True, stream=True, **slow(200)) as stream:
            for event in stream:
                first.append(event)
                id = event.response.id if event.type == "response.created" else id
                if event.type == "response.output_text.delta" and "word3" in event.delta:
                    break
        if killed == "worker":
            os.kill(service.worker_pid("vlm"), signal.SIGKILL)
        else:
            service.kill()
            service.start()
            client = client_of(service.ready("vlm"))
        events: list[Any] = list(client.responses.retrieve(id, stream=True))
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert [event.model_dump() for event in events[: len(first)]] == [event.model_dump() for event in first]
        assert events[-1].type == "response.completed", events[-1]
        assert events[-1].response.output_text == text + " "
        assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == text + " "


def running(client: openai.OpenAI, **options: Any) -> Any:
    """A background response that runs, for some ten seconds."""
    response = client.responses.create(model="any", input="word " * 50, background=True, **slow(200), **options)
    wait_until(lambda: client.responses.retrieve(response.id).status == "in_progress", "it runs", 30)
    return response


def test_a_response_that_runs_cannot_be_gone_on_from_and_goes_when_it_is_deleted(client: openai.OpenAI) -> None:
    response = running(client)
    with pytest.raises(openai.BadRequestError, match="in_progress") as error:
        client.responses.create(model="any", input="x", previous_response_id=response.id)
    assert error.value.param == "previous_response_id"
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    assert client.responses.create(model="any", input="at once").status == "completed"


def test_a_cancelled_response_gives_its_input_to_a_chain_and_nothing_to_its_conversation(client: openai.OpenAI) -> None:
    conversation = client.conversations.create(items=[])
    response = running(client, conversation=conversation.id)
    client.responses.cancel(response.id)
    assert list(client.conversations.items.list(conversation.id)) == []
    following = client.responses.create(model="any", input="go on", previous_response_id=response.id)
    first = next(iter(client.responses.input_items.list(following.id, order="asc")))
    assert first.content[0].text == "word " * 50  # type: ignore[union-attr]


def test_a_background_response_that_is_not_to_be_stored_can_be_fetched_for_a_while(
    client: openai.OpenAI, service: RunningService
) -> None:
    response = client.responses.create(model="any", input="one", background=True, store=False, **slow(1))
    assert ended(client, response.id).output_text == "one "
    with contextlib.closing(sqlite3.connect(service.home / ".batch" / "batch.db")) as database:
        ((left_s,),) = database.execute("select expires_at - unixepoch() from response where id=?", (response.id,))
    assert 500 < left_s <= 600


@pytest.mark.parametrize(
    ("options", "priority"),
    [
        ({}, Priority.LARGE_REQUEST),
        ({"service_tier": "flex"}, Priority.BATCH),
        ({"background_options": {"completion_window": "2h"}}, Priority.BATCH),
    ],
    ids=["normal", "flex", "window"],
)
def test_background_responses_that_may_wait_run_with_the_lines_of_batches(
    client: openai.OpenAI, service: RunningService, options: dict[str, Any], priority: Priority
) -> None:
    body = {"seed": 1, **options}
    id = client.responses.create(model="any", input="one", background=True, extra_body=body).id
    with contextlib.closing(sqlite3.connect(service.home / ".batch" / "batch.db")) as database:
        ((stored,),) = database.execute("select j.priority from job j join response r on r.job=j.id where r.id=?", (id,))
    assert stored == priority
    assert ended(client, id).status == "completed"


def test_what_is_not_done_here_is_refused_by_name(client: openai.OpenAI) -> None:
    for body in ({"prompt": {"id": "p"}}, {"context_management": [{"type": "compaction"}]}):
        with pytest.raises(openai.BadRequestError, match="is not supported here"):
            client.responses.create(model="any", input="x", extra_body=body)
    with pytest.raises(openai.BadRequestError, match="is not supported here"):
        client.post("/responses/compact", body={"model": "any", "input": "x"}, cast_to=object)
    window = {"background_options": {"completion_window": "2h"}}
    with pytest.raises(openai.BadRequestError, match="stream"):
        client.responses.create(model="any", input="x", background=True, stream=True, extra_body=window)


def test_a_response_that_has_ended_is_not_cancelled_and_its_state_is_named(client: openai.OpenAI) -> None:
    response = client.responses.create(model="any", input="one", background=True, **slow(1))
    assert ended(client, response.id).status == "completed"
    with pytest.raises(openai.BadRequestError, match="completed"):
        client.responses.cancel(response.id)
    assert client.responses.retrieve(response.id).status == "completed"


def test_a_stream_that_its_client_leaves_is_stored_as_cancelled(client: openai.OpenAI) -> None:
    with client.responses.create(model="any", input="word " * 50, stream=True, **slow(100)) as stream:
        id = next(event.response.id for event in stream if event.type == "response.created")
    assert ended(client, id).status == "cancelled"
