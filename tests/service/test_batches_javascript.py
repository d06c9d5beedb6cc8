"""openai-node and the Vercel AI SDK through files, batches, stored and background responses and conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from javascript import needs_node, run_script
from running_service import WEIGHTLESS, RunningService

pytestmark = needs_node


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tests/js/batches.mjs saw."""
    home: Path = tmp_path_factory.mktemp("home")
    with RunningService(home, WEIGHTLESS) as service:
        service.ready()
        return run_script("batches.mjs", {"BASE_URL": service.url("vlm"), "FOLDER": str(tmp_path_factory.mktemp("files"))})


def test_openai_node_runs_a_batch_from_its_file_to_its_content(seen: dict[str, Any]) -> None:
    assert seen["batch"]["counts"] == {"total": 30, "completed": 30, "failed": 0}
    assert seen["batch"]["ids"] == sorted(f"n{n}" for n in range(30))
    assert seen["batch"]["listed"] and seen["deleted"]


def test_openai_node_uploads_a_file_in_parts_that_arrive_in_any_order(seen: dict[str, Any]) -> None:
    assert seen["upload"] == {"status": "completed", "isWhole": True}


def test_openai_node_takes_a_background_stream_up_again_and_cancels_it(seen: dict[str, Any]) -> None:
    background = seen["background"]
    assert background["numbers"] == list(range(len(background["numbers"]))), "nothing twice, nothing left out"
    assert (background["status"], background["after"]) == ("cancelled", "cancelled")
    assert seen["helper"] == "completed", seen["helperError"]


def test_openai_node_pages_through_a_conversation_that_responses_added_to(seen: dict[str, Any]) -> None:
    said = seen["conversation"]["said"]
    assert [role for role, _ in said] == ["user", "assistant"] * 2
    assert [said[0][1], said[2][1]] == ["remember this", "and this"]
    assert seen["conversation"]["deleted"]


def test_the_vercel_ai_sdk_goes_on_by_item_references_at_its_defaults(seen: dict[str, Any]) -> None:
    first, second = seen["ai"]
    assert first == "first turn" and "second turn" in second
