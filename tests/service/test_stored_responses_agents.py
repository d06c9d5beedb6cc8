"""openai-agents at its defaults, stored responses and conversations, with a real service behind it."""

from __future__ import annotations

from typing import Any

import pytest

from python_clients import run_client
from running_service import WEIGHTLESS, RunningService

# the first run on a machine installs openai-agents, in an environment of its own
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tests/clients/agent_turns.py saw."""
    with RunningService(tmp_path_factory.mktemp("home"), WEIGHTLESS) as service:
        service.ready("vlm")
        variables = {
            "OPENAI_BASE_URL": service.url("vlm", "/v1"),
            "OPENAI_API_KEY": "not-needed",
            # traces go to OpenAI otherwise
            "OPENAI_AGENTS_DISABLE_TRACING": "1",
            "FOLDER": str(tmp_path_factory.mktemp("files")),
        }
        return run_client("agent_turns.py", variables)


def test_openai_agents_go_on_from_a_response_by_its_id(seen: dict[str, Any]) -> None:
    assert seen["chain"]["answers"] == ["first words", "second words"]
    assert seen["chain"]["items"] == [["user", "first words"], ["assistant", "first words"], ["user", "second words"]]


def test_openai_agents_stream_what_the_whole_answer_says(seen: dict[str, Any]) -> None:
    assert "".join(seen["stream"]["deltas"]) == seen["stream"]["answer"] == "stream these words "


def test_openai_agents_send_a_history_that_they_keep_themselves(seen: dict[str, Any]) -> None:
    assert seen["file"]["answers"] == ["hello there", "go on"]
    assert seen["file"]["items"] == [
        ["user", "hello there"],
        ["assistant", "hello there"],
        ["user", "go on"],
        ["assistant", "go on"],
    ]


def test_openai_agents_keep_a_session_in_a_conversation_of_the_service(seen: dict[str, Any]) -> None:
    conversation = seen["conversation"]
    turns = [[role, text] for text in ("remember this", "and this") for role in ("user", "assistant")]
    assert conversation["items"] == turns and conversation["popped"] == turns[-1:]
    assert conversation["newest"] == [["user", "note 23"], ["user", "note 24"]], "they are added twenty at a time"
    assert conversation["count"] == len(turns) - 1 + 25
    assert conversation["is_deleted"]


def test_openai_agents_reach_nothing_but_the_service(seen: dict[str, Any]) -> None:
    assert seen["other_hosts"] == []
