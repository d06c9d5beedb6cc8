"""Workers that die before their model is loaded."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from running_service import RunningService, wait_until

Start = Callable[..., RunningService]

BREAKDOWNS = {
    "an illegal instruction": (
        "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n",
        "llama.cpp stopped with an illegal instruction",
    ),
    "a missing library": (
        "raise OSError('libgomp.so.1: cannot open shared object file: No such file or directory')\n",
        "libgomp.so.1: cannot open shared object file",
    ),
    "a broken wheel": ("from llama_cpp import nothing_of_that_name\n", "ImportError"),
}


@pytest.mark.parametrize("breakdown", BREAKDOWNS)
def test_a_worker_that_dies_at_start_up_is_failed_with_the_reason_in_words_and_the_others_work(
    tmp_path: Path, start_service: Start, breakdown: str
) -> None:
    code, reason = BREAKDOWNS[breakdown]
    package = tmp_path / "broken" / "llama_cpp"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "llama_cpp.py").write_text(code)
    model = tmp_path / "some.gguf"
    model.write_bytes(b"GGUF" + bytes(100))
    path = os.pathsep.join(filter(None, (str(package.parent), os.environ.get("PYTHONPATH"))))
    service = start_service(BATCH_VLM__MODEL=str(model), PYTHONPATH=path)

    def failed() -> Any:
        status, body = service.health("vlm")
        return status == 503 and body["error"]["message"] != "Loading model" and body["error"]["message"]

    sentence = wait_until(failed, f"failed\n{service.output}", 90)
    assert reason in sentence and "status -" not in sentence and sentence.endswith(".")
    started = time.monotonic()
    status, refused = service.call("vlm", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]})
    assert status == 503 and reason in refused["error"]["message"] and time.monotonic() - started < 30, "nobody hangs"
    shown = json.loads(service.command("status", "--json").stdout)["models"]["vlm"]
    assert shown["status"] == "failed" and reason in shown["error"]
    assert reason in service.command("doctor").stdout
    assert service.ready("embedding").call("embedding", "/v1/embeddings", {"input": "x"})[0] == 200
    assert service.stop() == 0
