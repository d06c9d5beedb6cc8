"""What ended a worker is said in words."""

from __future__ import annotations

import signal

import pytest

from batch.queue.jobs import Kind
from batch.supervisor.worker_death import describe_death


@pytest.mark.parametrize(
    ("kind", "status", "last_line", "words"),
    [
        (Kind.VLM, -signal.SIGILL, "", "llama.cpp stopped with an illegal instruction: its build does not fit this processor"),
        (Kind.STT, -signal.SIGSEGV, "", "whisper.cpp crashed (segmentation fault)"),
        (Kind.EMBEDDING, -signal.SIGABRT, "GGML_ASSERT(x) failed", "llama.cpp gave up (abort)"),
        (Kind.VLM, -signal.SIGKILL, "", "the vlm worker was killed, maybe by the system for want of memory"),
        (Kind.VLM, -signal.SIGTERM, "", "the vlm worker was ended by SIGTERM"),
        (Kind.VLM, -99, "", "the vlm worker was ended by signal 99"),
        (
            Kind.VLM,
            1,
            "OSError: libgomp.so.1: cannot open shared object file: No such file or directory",
            "the vlm worker ended with OSError: libgomp.so.1: cannot open shared object file: No such file or directory",
        ),
        (Kind.VLM, 1, "msgspec.ValidationError: no.", "the vlm worker ended with msgspec.ValidationError: no"),
        (Kind.STT, 139, "bye", "the stt worker ended with exit status 139"),
        (Kind.STT, 1, "KeyError: " + "x" * 500, "the stt worker ended with KeyError: " + "x" * 290),
    ],
)
def test_a_death_is_told_in_words(kind: Kind, status: int, last_line: str, words: str) -> None:
    assert describe_death(kind, status, last_line) == words
