"""Every command and program in the documents that can run is run, in the order of its page, against a live service.

A block that cannot be run says why, in a comment before it: `<!-- not run: WHY -->`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples import Example, console_steps, examples
from paths import DATA, ROOT
from running_service import STARTER, RunningService

PAGES = [
    "README.md",
    *(f"docs/{name}.md" for name in ("quick-start", "search", "mcp", "batches", "responses", "notifications")),
    *sorted(page.relative_to(ROOT).as_posix() for page in (ROOT / "docs" / "recipes").glob("*.md")),
]
TIMEOUT_S = 100
REQUEST = (
    '{"custom_id": "one", "method": "POST", "url": "/v1/chat/completions", '
    '"body": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}}\n'
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def documented_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A home with the small real models and the files that the pages speak of, which is the examples' folder."""
    home = tmp_path_factory.mktemp("home")
    (home / "batch.toml").write_text("[folder]\nsettle = 0.2\nscan = 0.5\n")
    (home / "tests").symlink_to(ROOT / "tests")
    (home / "photos").mkdir()
    shutil.copy(DATA / "sample-red-circle.png", home / "photos" / "circle.png")
    shutil.copy(DATA / "sample-blue-triangle.png", home / "photos" / "triangle.png")
    shutil.copy(DATA / "jfk.wav", home / "talk.wav")
    (home / "requests.jsonl").write_text(REQUEST)
    (home / ".venv" / "bin").mkdir(parents=True)
    command = home / ".venv" / "bin" / "batch"
    # with a path of its own: agents start it with few of their variables
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m batch "$@"\n')
    command.chmod(0o755)
    with RunningService(home, STARTER) as service:
        service.ready()
        (home / "inbox" / "trip").mkdir()
        shutil.copy(DATA / "sample-green-square.png", home / "inbox" / "trip" / "a.jpg")
        (home / "inbox" / "bridge.txt").write_text("The budget for the bridge was cut. The bridge is closed.")
        shutil.copy(DATA / "sample-orange-triangle.png", home / "inbox" / "triangle.png")
        shutil.copytree(home / "photos", home / "inbox" / "photos")
        yield service


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_a_page_run(documented_home: RunningService, page: str) -> None:
    for example in examples(ROOT / page):
        if example.reason is None:
            run_example(documented_home, page, example)


def run_example(service: RunningService, page: str, example: Example) -> None:
    where = f"{page}, line {example.line}"
    text = example.text
    for port, kind in (("8080", "vlm"), ("8081", "embedding"), ("8082", "stt")):
        text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{service.ports[kind]}")
    if example.language == "console":
        for command, output in console_steps(text):
            run_until_it_prints(service, command, output, where)
        return
    if example.language == "python":
        arguments = [sys.executable, "-W", "error", "-c", text]
    elif example.language == "java":
        if shutil.which("java") is None:
            pytest.skip("this machine has no Java")
        (service.home / "Ask.java").write_text(text)
        arguments = ["java", "Ask.java"]
    else:
        arguments = ["bash", "-euo", "pipefail", "-c", text]
    ended = run(service, arguments)
    assert ended.returncode == 0, f"{where}:\n{text}\n{ended.stdout}\n{ended.stderr}"


def run_until_it_prints(service: RunningService, command: str, output: str, where: str) -> None:
    """Run a command until it prints every line of the page's output: results need their time. Lines are compared without their
    spaces, and may be the beginning of longer ones."""
    deadline = time.monotonic() + TIMEOUT_S
    expected = [" ".join(line.split()) for line in output.splitlines() if line.strip()]
    while True:
        ended = run(service, ["bash", "-euo", "pipefail", "-c", command])
        printed = " ".join(ended.stdout.split())
        if ended.returncode == 0 and all(has_printed(printed, line) for line in expected):
            return
        assert time.monotonic() < deadline, f"{where}: {command}\nexpected {expected}\nprinted {printed}\n{ended.stderr}"
        time.sleep(0.2)


def has_printed(printed: str, line: str) -> bool:
    # `ls` stands in columns on a terminal; a comma more or less is the speech model's own
    line, printed = line.replace(",", ""), printed.replace(",", "")
    return line in printed or set(line.split()) <= set(printed.split())


def run(service: RunningService, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("BATCH_")}
    environment |= {
        **STARTER,
        "BATCH_HOME": str(service.home),
        "PATH": f"{service.home / '.venv' / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    return subprocess.run(arguments, cwd=service.home, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
