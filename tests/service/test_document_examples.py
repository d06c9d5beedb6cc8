"""The examples of docs/batches.md and docs/responses.md, run as they stand there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from paths import ROOT
from running_service import RunningService, wait_until


def blocks(page: str, language: str) -> list[str]:
    """The blocks of a page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


def run_python(service: RunningService, page: str, folder: Path) -> str:
    """What all Python examples of a page print, one after the other, against the service's own port."""
    script = folder / "example.py"
    script.write_text("\n".join(blocks(page, "python")).replace("127.0.0.1:8080", f"127.0.0.1:{service.ports['vlm']}"))
    ran = subprocess.run([sys.executable, str(script)], cwd=folder, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_examples_of_the_page_on_batches_run(service: RunningService, tmp_path: Path) -> None:
    (requests,) = blocks("batches.md", "json")
    (tmp_path / "requests.jsonl").write_text(requests)
    answer = json.loads(run_python(service, "batches.md", tmp_path).strip())
    assert answer["custom_id"] == "one" and answer["response"]["status_code"] == 200
    (shell, *_) = blocks("batches.md", "sh")
    first = shell.splitlines()[0].partition("#")[0].split()
    assert first == ["batch", "run", "requests.jsonl"]
    ran = service.command("run", str(tmp_path / "requests.jsonl"))
    assert ran.returncode == 0, ran.stderr
    assert json.loads((tmp_path / "requests.output.jsonl").read_text())["custom_id"] == "one"
    for line in shell.splitlines()[3:]:
        command = line.partition("#")[0].split()[1:]
        assert service.command(*command).returncode == 0, line
    dropped = service.inbox / ".work.part"
    dropped.write_text(requests)
    dropped.rename(service.inbox / "work.jsonl")
    wait_until((service.outbox / "work.jsonl.json").exists, "the results of the dropped file")
    assert (service.outbox / "work.jsonl.output.jsonl").exists()


def test_the_examples_of_the_page_on_responses_run(service: RunningService, tmp_path: Path) -> None:
    assert run_python(service, "responses.md", tmp_path).splitlines()[-1] == "response.completed"
