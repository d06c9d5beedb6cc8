"""LiteLLM's batch client at its defaults, with a real service behind it."""

from __future__ import annotations

from typing import Any

import pytest

from python_clients import run_client
from running_service import WEIGHTLESS, RunningService

# the first run on a machine installs LiteLLM, in an environment of its own
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tests/clients/litellm_batches.py saw."""
    with RunningService(tmp_path_factory.mktemp("home"), WEIGHTLESS) as service:
        service.ready("vlm")
        # its prices come from a site of its maker's otherwise
        offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        folder = str(tmp_path_factory.mktemp("files"))
        return run_client("litellm_batches.py", {"BASE_URL": service.url("vlm"), "FOLDER": folder, **offline})


def test_litellm_runs_a_batch_from_its_file_to_its_content(seen: dict[str, Any]) -> None:
    batch = seen["batch"]
    assert (batch["status"], batch["counts"]) == ("completed", {"total": 6, "completed": 5, "failed": 1})
    assert batch["answers"] == {f"n{n}": f"word {n}" for n in range(5)} and batch["errors"] == {"n5": 400}
    assert batch["metadata"] == {"who": "litellm"} and batch["purpose"] == "batch"
    assert batch["is_listed"] and batch["is_deleted"]


def test_litellm_tells_which_file_of_a_batch_does_not_exist(seen: dict[str, Any]) -> None:
    assert seen["missing"]["status"] == 400 and "file-none" in seen["missing"]["message"]


def test_litellm_cancels_a_batch_whose_lines_all_stand_in_its_files(seen: dict[str, Any]) -> None:
    batch = seen["async"]
    assert batch["cancelled"] in ("cancelling", "cancelled") and batch["status"] == "cancelled"
    assert batch["ids"] == [f"n{n}" for n in range(40)]


def test_litellm_reaches_nothing_but_the_service(seen: dict[str, Any]) -> None:
    assert seen["other_hosts"] == []
