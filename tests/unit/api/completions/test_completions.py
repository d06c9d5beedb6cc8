"""Completions in OpenAI's shape and in llama-server's own."""

from __future__ import annotations

import math
from typing import Any

import pytest

from batch.queue.hub.model_state import ModelState
from chat_calls import (
    chunks,
    native_hub,
    post,
    says,
    spoken,
)
from scripted_hub import TIMINGS, USAGE, ScriptedHub, delta


def test_a_completion_has_openais_shape() -> None:
    told = post(says(spoken(" world", "length")), "/v1/completions", {"prompt": "Hello", "max_tokens": 3}).json()
    assert told["object"] == "text_completion" and told["usage"] == USAGE and told["timings"] == TIMINGS
    assert told["choices"] == [{"text": " world", "index": 0, "logprobs": None, "finish_reason": "length"}]


def test_several_prompts_are_several_jobs_and_choices() -> None:
    hub = ScriptedHub(lambda draft: [spoken(f"<{draft.payload.prompt}>")])
    told = post(hub, "/v1/completions", {"prompt": ["a", "b"]}).json()
    assert [c["text"] for c in told["choices"]] == ["<a>", "<b>"]
    assert [c["index"] for c in told["choices"]] == [0, 1]
    assert told["usage"]["total_tokens"] == 20 and told["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ("a", ["a"]),
        ([1, 2], [[1, 2]]),
        ([1, "b"], [[1, "b"]]),
        ([[1], "b"], [[1], "b"]),
        ({"prompt_string": "a"}, ["a"]),
    ],
)
def test_prompts_come_in_llama_servers_shapes(given: Any, prompts: list[Any]) -> None:
    hub = says(spoken("x"))
    assert post(hub, "/v1/completions", {"prompt": given}).status_code == 200
    assert [request["prompt"] for request in hub.requests] == prompts


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"prompt": None},
        {"prompt": 5},
        {"prompt": []},
        {"prompt": [None]},
        {"prompt": [[]]},
        {"prompt": [[1.5]]},
        {"prompt": "a", "suffix": "b"},
        {"prompt": "a", "best_of": 3},
    ],
)
def test_a_completion_without_a_prompt_is_a_400(body: dict[str, Any]) -> None:
    assert post(says(spoken("x")), "/v1/completions", body).status_code == 400


def test_a_streamed_completion_closes_with_usage_and_done() -> None:
    hub = says(delta(text="a"), delta(text="b", finish="stop"), spoken("ab"))
    *told, last, done = chunks(post(hub, "/v1/completions", {"prompt": "x", "stream": True}))
    assert [c["choices"][0]["text"] for c in told] == ["a", "b"] and done == "[DONE]"
    assert last["choices"][0] == {"text": "", "index": 0, "logprobs": None, "finish_reason": "stop"}
    assert last["usage"] == USAGE and last["timings"] == TIMINGS


def test_a_native_completion_has_llama_servers_keys() -> None:
    probability = {"id": 5, "token": "x", "bytes": [120], "logprob": -0.5, "top_logprobs": []}
    hub = native_hub(spoken("x\n", "stop", stopping_word="END", logprobs={"content": [probability]}))
    told = post(hub, "/completion", {"prompt": "Hello", "n_predict": 3, "n_probs": 1, "temperature": 0}).json()
    assert set(told) == {
        "index",
        "content",
        "tokens",
        "id_slot",
        "stop",
        "model",
        "tokens_predicted",
        "tokens_evaluated",
        "generation_settings",
        "prompt",
        "has_new_line",
        "truncated",
        "stop_type",
        "stopping_word",
        "tokens_cached",
        "timings",
        "completion_probabilities",
    }
    assert told["stop_type"] == "word" and told["stopping_word"] == "END" and told["has_new_line"] is True
    assert told["prompt"] == "<bos>Hello" and told["completion_probabilities"] == [probability]
    assert told["generation_settings"]["n_predict"] == 3 and told["generation_settings"]["temperature"] == 0


def test_a_native_caller_may_name_the_fields_it_wants() -> None:
    body = {"prompt": "Hello", "response_fields": ["content", "generation_settings/top_k", "nope", "content/deep"]}
    assert post(native_hub(spoken("x")), "/completion", body).json() == {
        "content": "x",
        "generation_settings/top_k": 40,
    }


def test_a_native_stream_has_no_done() -> None:
    hub = native_hub(delta(text="a"), delta(text="b", finish="length"), spoken("ab", "length"))
    *told, last = chunks(post(hub, "/completion", {"prompt": "Hello", "stream": True}))
    assert [line["content"] for line in told] == ["a", "b"] and not any(line["stop"] for line in told)
    assert last["stop"] is True and last["content"] == "" and last["stop_type"] == "limit"
    assert last["prompt"] == "<bos>Hello" and {line["tokens_evaluated"] for line in told} == {2}


def test_an_echo_counts_for_no_token_of_a_native_stream() -> None:
    hub = native_hub(
        {**delta(text="Hello"), "tokens": []},
        {**delta(text="a", finish="length"), "tokens": [5]},
        spoken("Helloa", "length"),
    )
    *told, _ = chunks(post(hub, "/completion", {"prompt": "Hello", "echo": True, "stream": True}))
    assert [(line["content"], line["tokens_predicted"]) for line in told] == [("Hello", 0), ("a", 1)]


def test_a_native_stream_waits_for_a_model_that_loads() -> None:
    hub = ScriptedHub(lambda draft: [1.3, {"type": "started"}, delta(text="a"), spoken("a")])
    hub.state = ModelState("loading")
    reply = post(hub, "/completion", {"prompt": "Hello", "stream": True})
    assert reply.status_code == 200 and ": queued 0 ahead" in reply.text and not hub.asked


PROBABILITY = {
    "id": 5,
    "token": "x",
    "bytes": [120],
    "logprob": math.log(0.5),
    "top_logprobs": [{"id": 5, "token": "x", "bytes": [120], "logprob": math.log(0.5)}],
}
AFTER_SAMPLING = {
    "id": 5,
    "token": "x",
    "bytes": [120],
    "prob": pytest.approx(0.5),
    "top_probs": [{"id": 5, "token": "x", "bytes": [120], "prob": pytest.approx(0.5)}],
}


@pytest.mark.parametrize(("asked", "told"), [(False, PROBABILITY), (True, AFTER_SAMPLING)])
@pytest.mark.parametrize("path", ["/completion", "/completions"])
def test_probabilities_are_the_models_or_those_after_the_samplers(path: str, asked: bool, told: dict[str, Any]) -> None:
    logprobs = {"content": [PROBABILITY], "post_sampling": asked}
    body = {"prompt": "Hello", "n_probs": 1, "post_sampling_probs": asked}
    hub = native_hub(spoken("x", logprobs=logprobs))
    assert post(hub, path, body).json()["completion_probabilities"] == [told]
    assert hub.requests[0]["generation"].get("post_sampling_probs", False) is asked
    event = {**delta(text="x"), "logprobs": logprobs, "tokens": [5]}
    line, _ = chunks(post(native_hub(event, spoken("x")), path, {**body, "stream": True}))
    assert line["completion_probabilities"] == [told]


def test_probabilities_in_openais_shape_stand_under_logprobs() -> None:
    for asked, told in ((False, PROBABILITY), (True, AFTER_SAMPLING)):
        hub = says(spoken("x", logprobs={"content": [PROBABILITY], "post_sampling": asked}))
        reply = post(hub, "/v1/completions", {"prompt": "Hello", "logprobs": 1, "post_sampling_probs": asked})
        assert reply.json()["choices"][0]["logprobs"] == {"content": [told]}


def test_progress_of_several_steps_is_reported_until_the_first_word() -> None:
    steps = [{"type": "progress", "done": done, "total": 9, "cache": 0, "time_ms": done} for done in (3, 6, 9)]
    for path, frame in (("/completion", "tokens_evaluated"), ("/v1/completions", "choices")):
        told = chunks(
            post(
                native_hub(*steps, {**delta(text="a"), "tokens": [1]}, steps[2], spoken("a")),
                path,
                {"prompt": "x", "stream": True, "return_progress": True},
            )
        )
        progress = [line["prompt_progress"] for line in told if "prompt_progress" in line]
        assert [step["processed"] for step in progress] == [3, 6, 9] and frame in told[0]
