"""The same requests to a real llama-server and to ours: same keys in the same places, same greedy text, same counts.

Both serve the tiny Gemma 4, one slot, one thread. What ours says beyond llama-server is listed in EXTRA.
"""

from __future__ import annotations

import base64
import importlib
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from paths import ROOT
from running_service import RunningService

sys.path.append(str(ROOT / "bench"))
llama_server = importlib.import_module("llama_server")

TINY = ROOT / "batch" / "data" / "tiny-gemma4v"
EXTRA = {"usage.completion_tokens_details", "error.param"}
"""Keys that ours has and llama-server has not, where a whole family of them is not listed with its test."""

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(llama_server.binary() is None, reason=llama_server.MISSING),
]


@pytest.fixture(scope="module")
def ours(service: RunningService) -> str:
    return service.url("vlm")


@pytest.fixture(scope="module")
def theirs(ours: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    template = json.loads(call(ours, "/props")[1])["chat_template"]
    with llama_server.serving(
        llama_server.binary(),
        TINY / "tiny-gemma4v-text-f16.gguf",
        "-c",
        "8192",
        "--mmproj",
        str(TINY / "tiny-gemma4v-mmproj-f16.gguf"),
        *llama_server.gemma4_template(template, tmp_path_factory.mktemp("peer")),
    ) as url:
        yield url


def call(address: str, path: str, body: Any = None) -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def both(theirs: str, ours: str, path: str, body: Any = None) -> tuple[Any, Any]:
    """Both answers, whose status is the same."""
    told, status = [], []
    for address in (theirs, ours):
        code, text = call(address, path, body)
        status.append(code)
        told.append(text)
    assert status[0] == status[1], told
    if isinstance(body, dict) and body.get("stream"):
        return events(told[0]), events(told[1])
    return json.loads(told[0]), json.loads(told[1])


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def keys(value: Any, path: str = "") -> set[str]:
    """Paths of all keys; the items of a list share one."""
    if isinstance(value, dict):
        found = set()
        for key, below in value.items():
            here = f"{path}.{key}" if path else key
            found |= {here} | keys(below, here)
        return found
    if isinstance(value, list):
        return set().union(*(keys(item, f"{path}[]") for item in value)) if value else set()
    return set()


def same_keys(a: Any, b: Any, *extra: str) -> None:
    """`b` has every key of `a`, and beyond them only those below EXTRA or `extra`."""
    allowed = EXTRA | set(extra)
    missing = keys(a) - keys(b)
    added = {key for key in keys(b) - keys(a) if not any(key == e or key.startswith(f"{e}.") for e in allowed)}
    assert not missing and not added, {"missing": missing, "added": added}


def chat(content: Any = "Hello", *, thinking: bool = False, **more: Any) -> dict[str, Any]:
    messages = content if isinstance(content, list) and "role" in content[0] else [{"role": "user", "content": content}]
    return {
        "messages": messages,
        "temperature": 0,
        "max_tokens": 200,
        "chat_template_kwargs": {"enable_thinking": thinking},
        **more,
    }


def picture(name: str = "sample-red-circle.png", text: str = "Describe this image.") -> list[dict[str, Any]]:
    data = base64.b64encode((ROOT / "tests" / "data" / name).read_bytes()).decode()
    return [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "text", "text": text},
    ]


TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "ping"},
    {"role": "assistant", "content": "pong"},
    {"role": "user", "content": "Tell me a story."},
]
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
REQUESTS = {
    "text": chat(),
    "thinking": chat(thinking=True),
    "turns": chat(TURNS),
    "a part": chat([{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]),
    "image": chat(picture()),
    "image with thinking": chat(picture(), thinking=True),
    "question about an image": chat(picture(text="What colour is it?")),
    "length": chat("Tell me a story.", max_tokens=7),
    "stop": chat(stop=["picture"]),
    "stops": chat("Count to twenty.", stop=["seven", "five"]),
    "thinking left in": chat(thinking=True, reasoning_format="none"),
    "no thinking budget": chat(thinking=True, reasoning_budget_tokens=0),
    "a thinking budget": chat("Tell me a story.", thinking=True, reasoning_budget_tokens=4),
    "seed": chat("Tell me a story.", seed=1),
    "bias": chat(logit_bias=[["Hello!", False]]),
    "penalties": chat("Tell me a story.", repeat_penalty=1.3, presence_penalty=0.5, max_tokens=40),
}


def words(answer: dict[str, Any]) -> tuple[str, str, str]:
    choice = answer["choices"][0]
    message = choice["message"]
    return message["content"], message.get("reasoning_content", ""), choice["finish_reason"]


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS.keys())
def test_chat_is_llama_servers_chat(theirs: str, ours: str, request_: dict[str, Any]) -> None:
    a, b = both(theirs, ours, "/v1/chat/completions", request_)
    same_keys(a, b)
    assert words(a) == words(b)
    for count in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert a["usage"][count] == b["usage"][count], count


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS.keys())
def test_a_streamed_chat_is_llama_servers(theirs: str, ours: str, request_: dict[str, Any]) -> None:
    body = {**request_, "stream": True, "stream_options": {"include_usage": True}}
    a, b = both(theirs, ours, "/v1/chat/completions", body)
    assert a[-1] == b[-1] == "[DONE]"
    same_keys(a[:-1], b[:-1], "[].usage.completion_tokens_details")
    for one, other in ((a[0], b[0]), (a[-3], b[-3])):
        assert one["choices"] == other["choices"]
    assert a[-2]["choices"] == b[-2]["choices"] == []
    for field in ("content", "reasoning_content"):
        said = ["".join(c["choices"][0]["delta"].get(field) or "" for c in told[:-2]) for told in (a, b)]
        assert said[0] == said[1], field
    assert a[-2]["usage"]["total_tokens"] == b[-2]["usage"]["total_tokens"]


def test_without_include_usage_the_last_chunk_is_the_same(theirs: str, ours: str) -> None:
    a, b = both(theirs, ours, "/v1/chat/completions", chat(stream=True))
    same_keys(a[-2], b[-2])
    assert a[-2]["choices"] == b[-2]["choices"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/completion"])
def test_progress_and_timings_stand_in_the_same_chunks(theirs: str, ours: str, path: str) -> None:
    more = {"return_progress": True, "timings_per_token": True, "stream": True}
    body = {**chat(**more), "prompt": "Hello ping", "n_predict": 5}
    a, b = both(theirs, ours, path, body)
    progress, timings = (
        [[key in chunk for chunk in told if chunk != "[DONE]"] for told in (a, b)] for key in ("prompt_progress", "timings")
    )
    assert any(progress[0]) and any(progress[1])
    assert keys([c["prompt_progress"] for c in a if "prompt_progress" in c]) == keys(
        [c["prompt_progress"] for c in b if "prompt_progress" in c]
    )
    assert all(timings[0][-2:]) and all(timings[1][-2:])


def test_log_probabilities_are_the_same(theirs: str, ours: str) -> None:
    a, b = both(theirs, ours, "/v1/chat/completions", chat(logprobs=True, top_logprobs=5))
    same_keys(a, b)
    one, other = (told["choices"][0]["logprobs"]["content"] for told in (a, b))
    # Theirs lists the token that ends the turn, whose text is empty; ours are the content's, as OpenAI's are.
    assert one.pop()["token"] == ""
    assert [t["token"] for t in one] == [t["token"] for t in other]
    for mine, yours in zip(one, other, strict=True):
        assert mine["logprob"] == pytest.approx(yours["logprob"], abs=2e-3)
        assert [t["id"] for t in mine["top_logprobs"][:2]] == [t["id"] for t in yours["top_logprobs"][:2]]


@pytest.mark.parametrize(
    "how",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
        {"json_schema": SCHEMA},
        {"grammar": 'root ::= "yes" | "no"'},
    ],
    ids=["response_format", "json_schema", "grammar"],
)
def test_constrained_answers_are_the_same(theirs: str, ours: str, how: dict[str, Any]) -> None:
    a, b = both(theirs, ours, "/v1/chat/completions", chat(**how))
    same_keys(a, b)
    if "grammar" in how:
        assert words(a) == words(b)
    else:
        # The grammar's white space is each one's own; what is said is not.
        assert json.loads(words(a)[0]).keys() == json.loads(words(b)[0]).keys() == {"a", "b"}


@pytest.mark.parametrize("prompt", ["Hello", "<|turn>user\nping<turn|>\n<|turn>model\n"])
@pytest.mark.parametrize("stream", [False, True])
def test_completions_are_the_same(theirs: str, ours: str, prompt: Any, stream: bool) -> None:
    body = {"prompt": prompt, "max_tokens": 6, "temperature": 0, "stream": stream}
    a, b = both(theirs, ours, "/v1/completions", body)
    if stream:
        assert a[-1] == b[-1] == "[DONE]"
        same_keys(a[:-1], b[:-1], "[].usage.completion_tokens_details")
        said = ["".join(c["choices"][0]["text"] for c in told[:-1]) for told in (a, b)]
        assert said[0] == said[1] and a[-2]["choices"] == b[-2]["choices"]
    else:
        same_keys(a, b)
        assert a["choices"] == b["choices"]
        assert a["usage"]["total_tokens"] == b["usage"]["total_tokens"]


@pytest.mark.parametrize("stream", [False, True])
def test_native_completions_are_the_same(theirs: str, ours: str, stream: bool) -> None:
    body = {"prompt": "Hello", "n_predict": 5, "temperature": 0, "n_probs": 2, "stream": stream, "stop": ["nope"]}
    a, b = both(theirs, ours, "/completion", body)
    same_keys(a, b)
    for one, other in zip(a, b, strict=True) if stream else [(a, b)]:
        for field in (
            "content",
            "tokens",
            "stop",
            "tokens_predicted",
            "tokens_evaluated",
            "stop_type",
            "prompt",
            "stopping_word",
            "truncated",
            "has_new_line",
            "tokens_cached",
        ):
            assert one.get(field) == other.get(field), field


@pytest.mark.parametrize("prompt", [["Hello", "ping"], [682, "ping"], [2, 682], [[2, 682], "ping"]], ids=str)
def test_lists_of_prompts_and_tokens_are_read_alike(theirs: str, ours: str, prompt: list[Any]) -> None:
    a, b = both(theirs, ours, "/completion", {"prompt": prompt, "n_predict": 4, "temperature": 0})
    same_keys(a, b)
    for one, other in zip(a, b, strict=True) if isinstance(a, list) else [(a, b)]:
        assert [one[k] for k in ("index", "content", "prompt")] == [other[k] for k in ("index", "content", "prompt")]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"content": "Hello, ping! äß 中"}),
        ("/tokenize", {"content": "Hello <|turn>", "add_special": True, "parse_special": False}),
        ("/tokenize", {"content": "a red circle", "with_pieces": True}),
        ("/tokenize", {"content": ["ping", 5]}),
        ("/detokenize", {"tokens": [682, 811, 812]}),
        ("/apply-template", {"messages": TURNS, "chat_template_kwargs": {"enable_thinking": True}}),
        ("/apply-template", {"messages": TURNS, "chat_template_kwargs": {"enable_thinking": False}}),
        ("/v1/chat/completions/input_tokens", chat(TURNS)),
        ("/v1/chat/completions/input_tokens", chat(picture())),
        ("/v1/messages/count_tokens", chat(TURNS[1:])),
    ],
)
def test_tokens_and_templates_are_the_same(theirs: str, ours: str, path: str, body: dict[str, Any]) -> None:
    a, b = both(theirs, ours, path, body)
    if path == "/apply-template":  # theirs leaves out the <bos> that its tokeniser adds
        a, b = (told["prompt"].removeprefix("<bos>") for told in (a, b))
    assert a == b


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": "hot"},
        {"max_tokens": "5"},
        {"n_predict": -5},
        {"response_format": {"type": "xml"}},
        {"messages": None},
        {"messages": [{"role": "user"}]},
        {"top_logprobs": 3},
        {"messages": [{"role": "user", "content": "ping " * 9000}]},
    ],
    ids=["temperature", "max_tokens", "n_predict", "response_format", "messages", "content", "top_logprobs", "context"],
)
def test_a_refusal_has_llama_servers_shape(theirs: str, ours: str, wrong: dict[str, Any]) -> None:
    a, b = both_told(theirs, ours, {**chat(), **wrong})
    same_keys(a, b)
    assert b["error"]["code"] == 400 and b["error"]["type"] == (
        a["error"]["type"] if a["error"]["code"] == 400 else "invalid_request_error"
    )


def both_told(theirs: str, ours: str, body: Any) -> tuple[Any, Any]:
    """Both answers, whatever their status: theirs says 500 to some of a client's faults."""
    a, b = (json.loads(call(address, "/v1/chat/completions", body)[1]) for address in (theirs, ours))
    return a, b


def test_messages_have_llama_servers_keys(theirs: str, ours: str) -> None:
    body = {**chat(thinking=True), "model": "m"}
    a, b = both(theirs, ours, "/v1/messages", body)
    same_keys(a, b, "usage.cache_creation_input_tokens")
    assert a["content"] == b["content"] and a["stop_reason"] == b["stop_reason"]
    a, b = both(theirs, ours, "/v1/messages", {**body, "stream": True})
    # Theirs closes the thinking only after the text; Anthropic's own streams have one block open at a time.
    assert sorted(e["type"] for e in a) == sorted(e["type"] for e in b)
    assert a[0]["type"] == b[0]["type"] == "message_start" and a[-2:][0]["delta"] == b[-2:][0]["delta"]


def test_responses_have_llama_servers_keys(theirs: str, ours: str) -> None:
    body = {"input": "Hello", "temperature": 0, "chat_template_kwargs": {"enable_thinking": True}}
    a, b = both(theirs, ours, "/v1/responses", body)
    assert not keys(a) - keys(b)
    assert [item["type"] for item in a["output"]] == [item["type"] for item in b["output"]]
    assert [item["content"][0]["text"] for item in a["output"]] == [item["content"][0]["text"] for item in b["output"]]


@pytest.mark.parametrize("path", ["/v1/models", "/props", "/slots", "/health"])
def test_what_stands_behind_the_port_has_llama_servers_keys(theirs: str, ours: str, path: str) -> None:
    a, b = both(theirs, ours, path)
    # What a template can do is not told: theirs guesses it from the template's text.
    left_out = {"media_marker"} | {key for key in keys(a) if key.startswith(("chat_template_caps", "[].", "ui_set"))}
    assert not keys(a) - keys(b) - left_out


def test_metrics_have_llama_servers_names(theirs: str, ours: str) -> None:
    def names(address: str) -> set[str]:
        page = call(address, "/metrics")[1]
        return {line.split()[0] for line in page.splitlines() if line.startswith("llamacpp:")}

    drafts = {name for name in names(theirs) if "spec_decode" in name}  # ours drafts nothing
    assert not names(theirs) - names(ours) - drafts - {"llamacpp:n_busy_slots_per_decode"}
