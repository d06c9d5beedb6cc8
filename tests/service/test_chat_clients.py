"""The openai and anthropic packages against the live chat port, with the tiny Gemma 4 behind it."""

from __future__ import annotations

import base64
import http.client
import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from paths import DATA
from running_service import RunningService, wait_until

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
GREETING = "Hello! Send me a picture."
PICTURE = base64.b64encode((DATA / "sample-red-circle.png").read_bytes()).decode()
SCHEMA = {
    "type": "object",
    "properties": {"deep": {"type": "boolean"}, "what": {"enum": ["a", "b"]}},
    "required": ["deep", "what"],
    "additionalProperties": False,
}
TOOL: Any = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": SCHEMA}}


class Look(BaseModel):
    deep: bool


@pytest.fixture(scope="module")
def client(service: RunningService) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=service.url("vlm", "/v1"), api_key="not-needed", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def claude(service: RunningService) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=service.url("vlm"), api_key="not-needed", max_retries=0) as client:
        yield client


# -- openai: chat


def test_the_promised_text_example_runs(client: openai.OpenAI) -> None:
    resp = client.chat.completions.create(
        model="gemma-4-e4b",
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=256,
    )
    assert resp.choices[0].message.content == GREETING
    assert resp.choices[0].finish_reason == "stop" and resp.model == "gemma-4-e4b"
    assert resp.usage is not None and resp.usage.total_tokens == resp.usage.prompt_tokens + resp.usage.completion_tokens


def test_the_promised_image_example_runs(client: openai.OpenAI) -> None:
    resp = client.chat.completions.create(
        model="gemma-4-e4b",
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Describe this photo"},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}},
                ],
            }
        ],
        max_tokens=256,
    )
    assert resp.choices[0].message.content == "a red circle"


def test_thinking_is_split_from_content_and_can_be_switched(client: openai.OpenAI) -> None:
    def ask(**extra: Any) -> Any:
        return client.chat.completions.create(model="m", messages=HELLO, temperature=0, **extra).choices[0].message

    on, off = ask(extra_body={"enable_thinking": True}), ask(reasoning_effort="none")
    assert on.content == off.content == GREETING
    assert on.reasoning_content and not hasattr(off, "reasoning_content")
    kept = ask(extra_body={"enable_thinking": True, "reasoning_format": "none"})
    assert "<|channel>" in kept.content and GREETING in kept.content


def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="m", messages=HELLO, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == GREETING
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens > 0 and not chunks[-1].choices
    assert chunks[-2].choices[0].finish_reason == "stop"


def test_a_second_turn_reuses_the_first_ones_prefix(client: openai.OpenAI) -> None:
    turns: list[Any] = [{"role": "user", "content": "Tell me a story."}]
    first = client.chat.completions.create(model="m", messages=turns, temperature=0, reasoning_effort="none")
    turns += [{"role": "assistant", "content": first.choices[0].message.content}, {"role": "user", "content": "Thanks"}]
    second = client.chat.completions.create(model="m", messages=turns, temperature=0, reasoning_effort="none")
    assert second.usage is not None and second.usage.prompt_tokens_details is not None
    assert (second.usage.prompt_tokens_details.cached_tokens or 0) > 10


def test_tools_are_called_with_arguments_that_fit_the_schema(client: openai.OpenAI) -> None:
    for choice in ("required", {"type": "function", "function": {"name": "look"}}):
        resp = client.chat.completions.create(
            model="m",
            messages=HELLO,
            tools=[TOOL],
            tool_choice=choice,  # type: ignore[arg-type,call-overload]
            temperature=0,
            max_tokens=256,
        )
        (call,) = resp.choices[0].message.tool_calls or []
        arguments = json.loads(call.function.arguments)
        assert resp.choices[0].finish_reason == "tool_calls" and call.function.name == "look" and call.id
        assert set(arguments) == {"deep", "what"} and arguments["what"] in "ab"


def test_streamed_tool_calls_add_up(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="m", messages=HELLO, tools=[TOOL], tool_choice="required", temperature=0, max_tokens=256
    ) as stream:
        for _ in stream:
            pass
        choice = stream.get_final_completion().choices[0]
    (call,) = choice.message.tool_calls or []
    assert choice.finish_reason == "tool_calls" and set(json.loads(call.function.arguments)) == {"deep", "what"}


def test_parse_gives_an_object(client: openai.OpenAI) -> None:
    resp = client.chat.completions.parse(model="m", messages=HELLO, response_format=Look, max_tokens=256)
    assert isinstance(resp.choices[0].message.parsed, Look)


def test_json_object_is_json(client: openai.OpenAI) -> None:
    resp = client.chat.completions.create(
        model="m", messages=HELLO, response_format={"type": "json_object"}, max_tokens=2000, temperature=0
    )
    assert resp.choices[0].finish_reason == "stop" and isinstance(json.loads(resp.choices[0].message.content or ""), dict)


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"guided_regex": r"[0-9]{3}-[a-c]{1,5}x"}, r"[0-9]{3}-[a-c]{1,5}x"),
        ({"guided_choice": ["yes", "no, thanks"]}, "yes|no, thanks"),
        ({"structured_outputs": {"regex": "(ab){2,4}"}}, "(ab){2,4}"),
        ({"structured_outputs": {"choice": ["left", "right"]}}, "left|right"),
        ({"guided_grammar": 'root ::= "a" [0-9] "b"'}, "a[0-9]b"),
    ],
)
def test_vllms_guided_fields_bind_the_answer(client: openai.OpenAI, fields: dict[str, Any], pattern: str) -> None:
    told = [
        client.chat.completions.create(model="m", messages=HELLO, max_tokens=200, extra_body=fields).choices[0].message.content,
        client.completions.create(model="m", prompt="Hello", max_tokens=200, extra_body=fields).choices[0].text,
    ]
    for text in told:
        assert re.fullmatch(pattern, text or ""), text


def test_several_choices_and_their_log_probabilities(client: openai.OpenAI) -> None:
    resp = client.chat.completions.create(
        model="m", messages=HELLO, n=3, logprobs=True, top_logprobs=2, temperature=0, reasoning_effort="none"
    )
    assert [choice.index for choice in resp.choices] == [0, 1, 2]
    for choice in resp.choices:
        assert choice.message.content == GREETING and choice.logprobs is not None
        tops = [len(token.top_logprobs) for token in choice.logprobs.content or []]
        assert tops and set(tops) == {2}


def test_a_stop_string_ends_an_answer_and_is_not_in_it(client: openai.OpenAI) -> None:
    resp = client.chat.completions.create(model="m", messages=HELLO, stop=["picture"], temperature=0, reasoning_effort="none")
    assert resp.choices[0].message.content == "Hello! Send me a " and resp.choices[0].finish_reason == "stop"


def test_a_budget_that_thinking_eats_is_told_in_a_header(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="m", messages=HELLO, max_tokens=3, temperature=0, extra_body={"enable_thinking": True}
    )
    resp = raw.parse()
    assert resp.choices[0].message.content == "" and resp.choices[0].finish_reason == "length"
    assert resp.usage is not None and resp.usage.completion_tokens_details is not None
    assert resp.usage.completion_tokens_details.reasoning_tokens == 3
    assert raw.headers["x-batch-note"] and raw.headers["x-batch-job"]


def test_a_request_longer_than_the_context_is_a_400_streamed_or_not(client: openai.OpenAI) -> None:
    long: list[Any] = [{"role": "user", "content": "ping " * 9000}]
    shortened = client.responses.create(model="m", input=[*long, *HELLO], truncation="auto", temperature=0)
    assert shortened.output_text == GREETING and shortened.truncation == "auto"
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="m", messages=long, stream=stream)
        body: Any = caught.value.body
        assert body["type"] == "exceed_context_size_error" and body["n_prompt_tokens"] >= body["n_ctx"] == 8192
        with pytest.raises(openai.BadRequestError):
            client.responses.create(model="m", input=long, stream=stream)


# -- openai: completions, responses, models


def test_completions_go_on_with_a_prompt(client: openai.OpenAI) -> None:
    resp = client.completions.create(model="m", prompt=["Hello", "ping"], max_tokens=3, temperature=0, echo=True)
    assert [choice.index for choice in resp.choices] == [0, 1]
    assert resp.choices[0].text.startswith("Hello") and resp.choices[0].finish_reason == "length"
    text = "".join(
        c.choices[0].text
        for c in client.completions.create(model="m", prompt="Hello", max_tokens=3, temperature=0, stream=True)
    )
    assert "Hello" + text == resp.choices[0].text


def test_responses_answer_and_stream(client: openai.OpenAI) -> None:
    resp = client.responses.create(model="m", input="Hello", temperature=0)
    assert resp.output_text == GREETING and resp.status == "completed"
    with client.responses.stream(model="m", input="Hello", temperature=0) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert final.output_text == GREETING and kinds[0] == "response.created" and kinds[-1] == "response.completed"


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"tools": [{"type": "function", "strict": True, **TOOL["function"]}], "tool_choice": "required"},
        {"max_output_tokens": 4},
        {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
    ],
    ids=["text", "call", "cut", "logprobs"],
)
def test_every_response_and_event_is_of_the_openai_packages_types(
    service: RunningService, client: openai.OpenAI, more: dict[str, Any]
) -> None:
    body = {"input": "Hello", "temperature": 0, **more}
    raw = client.responses.with_raw_response.create(model="m", **body)
    Response.model_validate_json(raw.text)
    with httpx.stream("POST", service.url("vlm", "/v1/responses"), json={**body, "stream": True}) as reply:
        events = [line.removeprefix("data: ") for line in reply.iter_lines() if line.startswith("data: ")]
    assert len(events) > 5
    for event in events:
        TypeAdapter[Any](ResponseStreamEvent).validate_json(event)


def test_responses_see_pictures_call_tools_and_parse(client: openai.OpenAI) -> None:
    parts: Any = [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Describe this image."},
                {"type": "input_image", "image_url": f"data:image/png;base64,{PICTURE}", "detail": "auto"},
            ],
        }
    ]
    assert client.responses.create(model="m", input=parts, temperature=0).output_text == "a red circle"
    tool: Any = {"type": "function", "name": "look", "parameters": SCHEMA, "strict": True}
    called = client.responses.create(model="m", input="Hello", tools=[tool], tool_choice="required", temperature=0)
    (call,) = [item for item in called.output if item.type == "function_call"]
    assert call.name == "look" and set(json.loads(call.arguments)) == {"deep", "what"}
    again: Any = [
        {"role": "user", "content": "Hello"},
        *called.output,
        {"type": "function_call_output", "call_id": call.call_id, "output": "seen"},
    ]
    assert client.responses.create(model="m", input=again, temperature=0).output_text
    assert isinstance(client.responses.parse(model="m", input="Hello", text_format=Look).output_parsed, Look)


def test_a_response_that_nobody_knows_is_told_so(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="'resp_1' not found"):
        client.responses.create(model="m", input="Hello", previous_response_id="resp_1")
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_1")


def test_the_ports_list_all_models_their_own_first(service: RunningService, client: openai.OpenAI) -> None:
    models = client.models.list().data
    assert len({model.id for model in models}) == 3
    assert models[0].id == service.get("vlm", "/props")[1]["model_alias"]
    for name in (*(model.id for model in models), "gpt-4o"):
        assert client.models.retrieve(name).id == name


def test_one_address_answers_for_all_three_models(client: openai.OpenAI) -> None:
    assert len(client.embeddings.create(model="m", input="Text").data[0].embedding) == 384
    with (DATA / "jfk.wav").open("rb") as sound:
        said = client.audio.transcriptions.create(model="whisper-1", file=sound, language="en").text
    assert "what you can do for your country" in said


# -- anthropic


def words(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_messages_answer_with_thinking_apart(claude: anthropic.Anthropic) -> None:
    message = claude.messages.create(
        model="m", max_tokens=2000, messages=HELLO, thinking={"type": "enabled", "budget_tokens": 1024}
    )
    assert [block.type for block in message.content] == ["thinking", "text"] and words(message) == GREETING
    assert message.stop_reason == "end_turn" and message.usage.output_tokens > 0
    plain = claude.messages.create(model="m", max_tokens=99, messages=HELLO, thinking={"type": "disabled"})
    assert [block.type for block in plain.content] == ["text"]


def test_messages_think_only_when_asked_and_repeat_no_prefill(claude: anthropic.Anthropic) -> None:
    message = claude.messages.create(model="m", max_tokens=99, messages=HELLO)
    assert [block.type for block in message.content] == ["text"] and words(message) == GREETING
    turns: Any = [*HELLO, {"role": "assistant", "content": GREETING[:6]}]
    rest = words(claude.messages.create(model="m", max_tokens=99, messages=turns))
    with claude.messages.stream(model="m", max_tokens=99, messages=turns) as stream:
        assert "".join(stream.text_stream) == rest
    assert not rest.startswith(GREETING[:6])
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long: "):
        claude.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "ping " * 9000}])


def test_messages_see_pictures(claude: anthropic.Anthropic) -> None:
    source: Any = {"type": "base64", "media_type": "image/png", "data": PICTURE}
    parts: Any = [{"type": "image", "source": source}, {"type": "text", "text": "Describe this image."}]
    message = claude.messages.create(model="m", max_tokens=99, messages=[{"role": "user", "content": parts}])
    assert words(message) == "a red circle"


def test_messages_stream(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(model="m", max_tokens=99, messages=HELLO) as stream:
        begun = next(event for event in stream if event.type == "message_start").message.usage.model_copy()
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == words(final) == GREETING and final.stop_reason == "end_turn" and final.usage.output_tokens > 0
    assert (begun.input_tokens, begun.cache_read_input_tokens) == (
        final.usage.input_tokens,
        final.usage.cache_read_input_tokens,
    ) and begun.input_tokens > 0


def test_messages_call_tools_and_take_their_results(claude: anthropic.Anthropic) -> None:
    tools: Any = [{"name": "look", "description": "Looks.", "input_schema": SCHEMA}]
    choice: Any = {"type": "tool", "name": "look"}
    message = claude.messages.create(model="m", max_tokens=500, messages=HELLO, tools=tools, tool_choice=choice)
    (call,) = [block for block in message.content if block.type == "tool_use"]
    assert message.stop_reason == "tool_use" and call.name == "look" and set(call.input) == {"deep", "what"}  # type: ignore[call-overload]
    with claude.messages.stream(model="m", max_tokens=500, messages=HELLO, tools=tools, tool_choice=choice) as stream:
        streamed = [block for block in stream.get_final_message().content if block.type == "tool_use"]
    assert set(streamed[0].input) == {"deep", "what"}  # type: ignore[call-overload]
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "seen"}
    turns: Any = [*HELLO, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    assert words(claude.messages.create(model="m", max_tokens=500, messages=turns, tools=tools))


def test_messages_tell_the_stop_sequence(claude: anthropic.Anthropic) -> None:
    message = claude.messages.create(
        model="m", max_tokens=99, messages=HELLO, stop_sequences=["picture"], thinking={"type": "disabled"}
    )
    assert message.stop_reason == "stop_sequence" and message.stop_sequence == "picture"


def test_messages_are_counted_and_their_errors_are_anthropics(claude: anthropic.Anthropic) -> None:
    counted = claude.messages.count_tokens(model="m", messages=HELLO)
    message = claude.messages.create(model="m", max_tokens=5, messages=HELLO)
    assert counted.input_tokens == message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)
    with pytest.raises(anthropic.BadRequestError) as caught:
        claude.messages.create(model="m", max_tokens=5, messages=[{"role": "robot", "content": "x"}])  # type: ignore[typeddict-item]
    body: Any = caught.value.body
    assert body["type"] == "error" and body["error"]["type"] == "invalid_request_error"


# -- what stands behind the port


def test_tokens_template_and_counts_agree(service: RunningService) -> None:
    messages = {"messages": HELLO, "enable_thinking": False}
    prompt = service.call("vlm", "/apply-template", messages)[1]["prompt"]
    tokens = service.call("vlm", "/tokenize", {"content": prompt, "add_special": True})[1]["tokens"]
    counted = service.call("vlm", "/v1/chat/completions/input_tokens", messages)[1]["input_tokens"]
    used = service.call("vlm", "/v1/chat/completions", {**messages, "max_tokens": 1})[1]["usage"]["prompt_tokens"]
    assert counted == used and counted in (len(tokens), len(tokens) - 1)  # the template may bring its own <bos>
    assert "Hello" in service.call("vlm", "/detokenize", {"tokens": tokens})[1]["content"]
    pieces = service.call("vlm", "/tokenize", {"content": "ping", "with_pieces": True})[1]["tokens"]
    assert "".join(piece["piece"] for piece in pieces) == "ping"


def test_properties_and_the_slot_are_told(service: RunningService) -> None:
    props = service.get("vlm", "/props")[1]
    assert props["total_slots"] == 1 and props["modalities"]["vision"] is True and props["chat_template"]
    assert props["default_generation_settings"]["n_ctx"] == 8192
    (slot,) = service.get("vlm", "/slots")[1]
    assert slot["id"] == 0 and slot["is_processing"] is False


def measured(service: RunningService, name: str) -> float:
    page = str(service.get("vlm", "/metrics")[1])
    return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(name))


def test_a_second_turn_about_a_picture_does_not_encode_it_again(service: RunningService, client: openai.OpenAI) -> None:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}
    turns: list[Any] = [{"role": "user", "content": [image, {"type": "text", "text": "Describe this image."}]}]
    first = client.chat.completions.create(model="m", messages=turns, temperature=0)
    encodes = measured(service, "batch:image_encodes")
    turns += [
        {"role": "assistant", "content": first.choices[0].message.content},
        {"role": "user", "content": "What colour is it?"},
    ]
    second = client.chat.completions.create(model="m", messages=turns, temperature=0)
    assert second.choices[0].message.content == "red"
    assert second.usage and second.usage.prompt_tokens_details and first.usage
    assert second.usage.prompt_tokens_details.cached_tokens == first.usage.prompt_tokens
    assert measured(service, "batch:image_encodes") == encodes >= 1


def test_metrics_count_what_the_port_did(service: RunningService) -> None:
    def metric(name: str) -> float:
        return measured(service, name)

    predicted, waits = metric("llamacpp:tokens_predicted_total"), metric("batch:queue_wait_seconds_count")
    answer = service.call("vlm", "/v1/chat/completions", {"messages": HELLO})[1]
    wanted = predicted + answer["usage"]["completion_tokens"]
    wait_until(lambda: metric("llamacpp:tokens_predicted_total") == wanted, "the tokens are counted")
    assert metric("batch:queue_wait_seconds_count") == waits + 1
    for name in ("llamacpp:prompt_tokens_total", "llamacpp:requests_deferred", "batch:job_seconds_bucket"):
        assert name in str(service.get("vlm", "/metrics")[1])


# -- waiting and going away

STORY = {
    "messages": [{"role": "user", "content": "Tell me a story."}],
    "ignore_eos": True,
    "temperature": 1,
    "enable_thinking": False,
}


def idle(service: RunningService) -> None:
    wait_until(lambda: not service.get("vlm", "/slots")[1][0]["is_processing"], "the slot is free")


def test_a_stream_that_waits_gets_headers_and_its_place_before_its_turn(service: RunningService) -> None:
    idle(service)
    url = service.url("vlm", "/v1/chat/completions")
    with httpx.Client(timeout=60) as client, client.stream("POST", url, json={**STORY, "stream": True}) as busy:
        story = busy.iter_text()
        next(story)  # it runs, and would for 8,000 tokens
        with client.stream("POST", url, json={"messages": HELLO, "stream": True}) as waiting:
            lines = waiting.iter_lines()
            assert next(lines).startswith(": queued")
            assert service.states("vlm", 2) == ["queued", "running"]
            busy.close()  # the first caller hangs up: the slot goes to the second
            rest = "\n".join(lines)
    assert rest.rstrip().endswith("data: [DONE]") and "error" not in rest
    idle(service)


@pytest.mark.parametrize(
    ("path", "wrong", "named"),
    [
        ("/v1/chat/completions", {"grammar": "root ::= (("}, "grammar"),
        ("/v1/chat/completions", {"json_schema": {"type": 5}}, "json_schema"),
        ("/v1/chat/completions", {"repeat_penalty": 0}, "repeat_penalty"),
        ("/v1/chat/completions", {"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function"),
        ("/v1/completions", {"grammar": "root ::= (("}, "grammar"),
        ("/v1/completions", {"json_schema": {"type": 5}}, "json_schema"),
    ],
)
def test_a_stream_that_waits_is_refused_for_what_its_job_would_be(
    service: RunningService, path: str, wrong: dict[str, Any], named: str
) -> None:
    idle(service)
    with httpx.Client(timeout=60) as client:
        url = service.url("vlm", "/v1/chat/completions")
        with client.stream("POST", url, json={**STORY, "stream": True}) as busy:
            story = busy.iter_text()
            next(story)  # it runs, and would for 8,000 tokens
            prompt = {"prompt": "Hello"} if path == "/v1/completions" else {"messages": HELLO}
            status, told = service.call("vlm", path, {**prompt, **wrong, "stream": True})
            (slot,) = service.get("vlm", "/slots")[1]
            assert slot["id_task"] == busy.headers["x-batch-job"], "the refusal did not wait for the slot"
    assert status == 400 and told["error"]["type"] == "invalid_request_error", told
    assert named in told["error"]["message"]
    idle(service)


def test_the_slot_is_free_soon_after_a_caller_hangs_up(service: RunningService) -> None:
    idle(service)
    connection = http.client.HTTPConnection("127.0.0.1", service.ports["vlm"])
    connection.request("POST", "/v1/chat/completions", json.dumps(STORY), {"Content-Type": "application/json"})
    wait_until(lambda: service.get("vlm", "/slots")[1][0]["is_processing"], "it runs")
    connection.close()
    idle(service)
    assert service.states("vlm") == ["cancelled"], "the story was not told to its end"


def test_many_callers_at_once_are_all_answered(service: RunningService) -> None:
    answers: list[Any] = []

    def ask() -> None:
        answers.append(service.call("vlm", "/v1/chat/completions", {"messages": HELLO, "temperature": 0}))

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [status for status, _ in answers] == [200] * 12
    assert {told["choices"][0]["message"]["content"] for _, told in answers} == {GREETING}
