"""The body's sampling parameters are those of the one table, under the same spellings everywhere."""

from __future__ import annotations

from typing import Any

import pytest

from batch.api.generation.logit_bias import MAX_BIASED_TEXT_CHARS, MAX_BIASED_TEXTS
from batch.api.generation.request import GenerationBody
from batch.payloads.chat import MAX_BIASES, MAX_STOP_CHARS
from batch.payloads.sampling import DEFAULTS, SAMPLERS, SamplingParams
from chat_calls import HELLO, chat, job_of, post, says, spoken
from scripted_hub import answer


def test_every_field_of_the_table_is_a_field_of_the_body() -> None:
    assert set(SamplingParams.__struct_fields__) <= set(GenerationBody.__struct_fields__)


@pytest.mark.parametrize("field", [f for f in SamplingParams.__struct_fields__ if f not in ("seed", "samplers")])
def test_every_sampling_parameter_reaches_the_job_as_it_is_sent(field: str) -> None:
    value = getattr(DEFAULTS, field)
    value = list(value) if isinstance(value, tuple) else value
    assert job_of({field: value})["generation"] == {field: value}


@pytest.mark.parametrize(
    ("spelling", "sampler"),
    [
        ("typ", "typ_p"),
        ("typical", "typ_p"),
        ("typical_p", "typ_p"),
        ("typ-p", "typ_p"),
        ("topk", "top_k"),
        ("top-k", "top_k"),
        ("TOP_K", "top_k"),
        ("Top-P", "top_p"),
        ("nucleus", "top_p"),
        ("minp", "min_p"),
        ("MIN-P", "min_p"),
        ("temp", "temperature"),
        ("topnsigma", "top_n_sigma"),
        *((name, name) for name in SAMPLERS),
    ],
)
def test_a_sampler_has_the_same_spellings_everywhere(spelling: str, sampler: str) -> None:
    for path, body in (("/v1/chat/completions", {"messages": HELLO}), ("/v1/responses", {"input": "x"})):
        hub = says(answer("Hi"))
        assert post(hub, path, {**body, "samplers": [spelling, "nonsense"]}).status_code == 200
        assert hub.requests[0]["generation"]["samplers"] == [sampler]
    hub = says(spoken("x"))
    assert post(hub, "/completion", {"prompt": "x", "samplers": [spelling]}).status_code == 200
    assert hub.requests[0]["generation"]["samplers"] == [sampler]


def test_vllms_repetition_penalty_is_repeat_penalty() -> None:
    assert job_of({"repetition_penalty": 1.2})["generation"] == {"repeat_penalty": 1.2}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"top_p": 1.5}, "top_p"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"repeat_last_n": -2}, "repeat_last_n"),
        ({"mirostat": 3}, "mirostat"),
        ({"dry_sequence_breakers": []}, "dry_sequence_breakers"),
        ({"dry_sequence_breakers": ["x"] * 65}, "dry_sequence_breakers"),
        ({"dry_sequence_breakers": ["x" * 300]}, "dry_sequence_breakers[0]"),
        ({"samplers": [5]}, "samplers[0]"),
        ({"stop": ["x"] * 65}, "stop"),
        ({"stop": "x" * 5000}, "stop"),
        ({"stop": "x" * (MAX_STOP_CHARS + 1)}, "stop"),
        ({"repetition_penalty": 1e39}, "repetition_penalty"),
        ({"model": "m" * 300}, "model"),
        ({"n": 128, "logprobs": True, "top_logprobs": 1000}, "n"),
        ({"logit_bias": {f"word{n}": 1 for n in range(MAX_BIASED_TEXTS + 1)}}, "logit_bias"),
        ({"logit_bias": [["w" * (MAX_BIASED_TEXT_CHARS + 1), 1]]}, "logit_bias"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
        ({"logit_bias": {"x": "much"}}, "logit_bias.x"),
        ({"logit_bias": [[1, True]]}, "logit_bias[0]"),
        ({"logit_bias": [[True, 1]]}, "logit_bias[0]"),
    ],
)
def test_what_a_client_can_make_long_or_large_has_a_bound(body: dict[str, Any], param: str) -> None:
    reply = chat(body)
    error = reply.json()["error"]
    assert reply.status_code == 400 and error["param"] == param and len(error["message"]) < 400


def test_as_many_tokens_as_a_vocabulary_has_may_be_biased() -> None:
    reply = chat({"logit_bias": dict.fromkeys(map(str, range(MAX_BIASES + 1)), 1)})
    assert reply.status_code == 400 and reply.json()["error"]["param"] == "logit_bias"
    biases = job_of({"logit_bias": {str(token): False for token in range(100_000)}})["generation"]["logit_bias"]
    assert len(biases) == 100_000 and biases[0] == [0, False]


def test_more_text_than_any_context_holds_is_a_413_in_every_field() -> None:
    long = "x" * (17 << 20)
    for more in (
        {"messages": [{"role": "user", "content": long}]},
        {"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}], "tools": [], "user": long},
        {"messages": HELLO, "chat_template_kwargs": {"x": long}},
        {"messages": HELLO, "response_format": {"type": "json_object", "schema": {"description": long}}},
    ):
        hub = says(answer("Hi"))
        reply = post(hub, "/v1/chat/completions", more)
        assert reply.status_code == 413 and "limits.text_bytes" in reply.json()["error"]["message"] and not hub.drafts
    assert post(says(spoken("x")), "/v1/completions", {"prompt": long}).status_code == 413


@pytest.mark.parametrize("field", ["tool_call_id", "name"])
def test_an_id_or_name_of_megabytes_is_a_400(field: str) -> None:
    message = {"role": "tool", "content": "x", "tool_call_id": "1", field: "x" * 2000}
    reply = chat({"messages": [message]})
    assert reply.status_code == 400 and reply.json()["error"]["param"] == f"messages[0].{field}"


def test_ten_thousand_messages_are_the_most() -> None:
    many = [{"role": "user", "content": "x"}] * 10_001
    reply = chat({"messages": many})
    assert reply.status_code == 400 and "at most 10000 messages" in reply.json()["error"]["message"]
