"""schemathesis against the three ports, from each port's own description of itself: no 500, no hang."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from running_service import STARTER, WEIGHTLESS, RunningService

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its dependencies deprecate one another's names
    import schemathesis
    from schemathesis import GenerationMode

SCALE = int(os.environ.get("FUZZ_SCALE", "1"))
"""How many times as many requests as in CI."""
REAL = bool(os.environ.get("FUZZ_REAL"))
"""Against the small real models, which takes minutes, instead of engines without weights."""
LONGEST = 60.0 if REAL else 30.0
"""Seconds that an answer may take."""
HONEST = {501, 503}
"""What a port may say above 499: it can't do that at all, or not now."""

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    models = STARTER if REAL else WEIGHTLESS
    with RunningService(tmp_path_factory.mktemp("fuzzed"), {**models, "BATCH_LOG_LEVEL": "warning"}) as service:
        yield service.ready()


def quick(value: Any) -> Any:
    """The same request, short: to the engine without weights a seed is milliseconds a word, and a real model goes on for
    as many tokens and choices as it is asked for. Neither would be a hang of the port's."""
    if isinstance(value, list):
        return [quick(item) for item in value]
    if not isinstance(value, dict):
        return value
    short = {k: 0 if k == "seed" else quick(v) for k, v in value.items()}
    if REAL and short:
        few = {k: min(v, 3) for k, v in short.items() if k in ("n", "n_cmpl") and type(v) is int}
        limits = ("max_tokens", "n_predict", "max_completion_tokens", "max_output_tokens")
        few |= {k: 3 for k in limits if type(short.get(k)) is int}
        return {**short, **few} if short.keys() & {*limits, "file"} else {**short, "max_tokens": 3}
    return short


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vlm", "embedding", "stt"])
def test_nothing_that_a_port_describes_breaks_or_hangs_it(fuzzed: RunningService, kind: str) -> None:
    schema = schemathesis.openapi.from_dict(requests.get(fuzzed.url(kind, "/openapi.json"), timeout=20).json())
    schema.config.update(base_url=fuzzed.url(kind))
    seen: Counter[str] = Counter()
    session = requests.Session()
    for operation in (result.ok() for result in schema.get_all_operations()):
        for mode, examples in ((GenerationMode.POSITIVE, 8), (GenerationMode.NEGATIVE, 4)):
            if operation.path.endswith(("tokens", "template")):
                examples //= 4  # the same bodies as the routes that they count for
            if mode is GenerationMode.NEGATIVE and not operation.body:
                continue

            @settings(
                max_examples=examples * SCALE,
                deadline=None,
                derandomize=SCALE == 1,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: Any) -> None:
                case.body = quick(case.body)
                begun = time.monotonic()
                answer = case.call(session=session, timeout=LONGEST)
                shown = f"{case.method} {case.path}: {answer.status_code} {answer.text[:500]}\n{case.as_curl_command()[:1000]}"
                assert answer.status_code < 500 or answer.status_code in HONEST, shown
                assert time.monotonic() - begun < LONGEST, shown
                if answer.status_code >= 400 and case.method != "HEAD":
                    error = answer.json()["error"]
                    assert error["message"] if isinstance(error, dict) else error, shown
                seen[f"{case.path} {answer.status_code}"] += 1

            ask()
    session.close()
    assert fuzzed.health(kind)[0] == 200
    assert "Traceback" not in fuzzed.output, fuzzed.output[fuzzed.output.index("Traceback") - 500 :][:4000]
    if os.environ.get("FUZZ_SHOW"):
        print(json.dumps(dict(sorted(seen.items())), indent=1))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["user", "assistant", "tool", "text", "image_url", "data:image/png;base64,AAAA", "auto", "none"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "messages",
                    "role",
                    "content",
                    "type",
                    "text",
                    "image_url",
                    "url",
                    "tools",
                    "function",
                    "name",
                    "arguments",
                    "tool_calls",
                    "response_format",
                    "schema",
                    "json_schema",
                    "stop",
                    "logit_bias",
                    "n",
                    "max_tokens",
                    "stream",
                    "stream_options",
                    "input",
                    "prompt",
                    "system",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
ROUTES = [
    ("vlm", path)
    for path in (
        "/v1/chat/completions",
        "/v1/completions",
        "/completion",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/tokenize",
        "/apply-template",
    )
]


@pytest.mark.parametrize(("kind", "path"), [*ROUTES, ("embedding", "/v1/embeddings"), ("embedding", "/embedding")])
def test_no_document_of_the_right_words_in_the_wrong_places_breaks_a_port(fuzzed: RunningService, kind: str, path: str) -> None:
    session = requests.Session()

    @settings(
        max_examples=60 * SCALE,
        deadline=None,
        derandomize=SCALE == 1,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(document=st.dictionaries(st.sampled_from(["messages", "prompt", "input", "content", "system", "tools"]), JSON))
    def ask(document: Any) -> None:
        body = json.dumps(quick(document)).encode()
        answer = session.post(fuzzed.url(kind, path), data=body, timeout=LONGEST)
        assert answer.status_code < 500 or answer.status_code in HONEST, (
            answer.status_code,
            answer.text[:500],
            body[:500],
        )

    ask()
    session.close()


@pytest.mark.parametrize("kind", ["vlm", "embedding", "stt"])
def test_no_bytes_break_a_port(fuzzed: RunningService, kind: str) -> None:
    path = {"vlm": "/v1/chat/completions", "embedding": "/v1/embeddings", "stt": "/inference"}[kind]
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n--b--\r\n'
    session = requests.Session()

    @settings(max_examples=80 * SCALE, deadline=None, derandomize=SCALE == 1, database=None)
    @given(data=st.binary(max_size=200), at=st.integers(0, len(form)), cut=st.integers(0, 20))
    def send(data: bytes, at: int, cut: int) -> None:
        body = form[:at] + data + form[at + cut :] if kind == "stt" else data
        headers = {"Content-Type": "multipart/form-data; boundary=b" if kind == "stt" else "application/json"}
        answer = session.post(fuzzed.url(kind, path), data=body, headers=headers, timeout=LONGEST)
        assert answer.status_code < 500, (answer.status_code, answer.text[:500], body)

    send()
    session.close()
