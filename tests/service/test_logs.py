"""The log of a running service: deaths and last words stand in it, and nothing that people send."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from batch import logs
from running_service import RunningService, wait_until

Start = Callable[..., RunningService]


SECRET = "xylophone-4711"


def log_of(service: RunningService) -> str:
    files = reversed(logs.parts(logs.file_of(service.home)))
    return "".join(file.read_text() for file in files)


def test_a_worker_s_death_and_its_last_words_stand_in_the_log_with_its_name(start_service: Start) -> None:
    service = start_service().ready("vlm")
    os.kill(service.worker_pid("vlm"), signal.SIGABRT)
    wait_until(lambda: "vlm: llama.cpp gave up (abort)" in log_of(service), "its death is told")
    assert service.stop() == 0


def test_no_prompt_no_text_and_no_content_of_a_file_is_ever_logged(start_service: Start) -> None:
    service = start_service().ready()
    message = {"role": "user", "content": f"{SECRET} says hello"}
    assert service.call("vlm", "/v1/chat/completions", {"model": "m", "messages": [message]})[0] == 200
    refused = {"role": "user", "content": f"refuse {SECRET}"}
    assert service.call("vlm", "/v1/chat/completions", {"model": "m", "messages": [refused]})[0] == 400
    assert service.call("vlm", "/v1/chat/completions", {"model": "m", "messages": [{"role": SECRET}]})[0] == 400
    assert service.call("embedding", "/v1/embeddings", {"input": SECRET, "model": "m"})[0] == 200
    assert service.call("embedding", "/v1/embeddings", f'{{"input": "{SECRET}"'.encode())[0] == 400
    partial = service.inbox / ".note"
    partial.write_text(f"{SECRET} is in a file")
    partial.rename(service.inbox / "note.txt")
    wait_until(lambda: list(service.outbox.rglob("note*.json")), "the file's result")
    crash = {"role": "user", "content": f"crash {SECRET}"}
    service.call("vlm", "/v1/chat/completions", {"model": "m", "messages": [crash]})
    service.stop()
    assert "vlm: the vlm worker ended" in log_of(service)
    assert SECRET not in log_of(service) and SECRET not in service.output


def test_batch_logs_shows_the_last_lines_and_follows_until_it_is_told_to_stop(start_service: Start) -> None:
    service = start_service().ready("vlm")
    assert "has no log yet" in service.command("logs", "--home", str(service.home.parent)).stderr
    os.kill(service.worker_pid("vlm"), signal.SIGKILL)
    wait_until(lambda: "vlm: the vlm worker was killed" in service.command("logs").stdout, "the log tells")
    assert len(service.command("logs", "--lines", "1").stdout.splitlines()) == 1
    following = subprocess.Popen(
        [sys.executable, "-m", "batch", "logs", "-f", "--lines", "0", "--home", str(service.home)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert following.stdout is not None
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.extend(following.stdout or ()))
    reader.start()
    try:
        service.ready("vlm")
        with logs.file_of(service.home).open("a", buffering=1) as log:

            def seen() -> bool:
                print("a new line", file=log)  # again, as it looks from where the log ended when it began to follow
                return "a new line\n" in read

            wait_until(seen, "it follows")
        following.send_signal(signal.SIGINT)
        assert following.wait(30) == 0
    finally:
        following.kill()
        following.wait(30)
        reader.join(30)
        following.stdout.close()


def test_why_a_service_could_not_start_stands_in_the_log(start_service: Start, tmp_path: Path) -> None:
    service = start_service()
    second = service.command("serve", "--vlm-port", "0")
    assert second.returncode == 1
    assert "ERROR batch: batch is already running" in service.command("logs").stdout
