"""What the model libraries complain of is kept for an error's sentence and never logged."""

from __future__ import annotations

import logging

import pytest

from batch.workers.llama import library as llama
from batch.workers.speech.whisper import library as whisper

SENT = b"parse: error parsing grammar near 'what a client sent'"


def test_what_a_library_says_of_a_request_is_for_its_client_and_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    llama.clear_errors()
    whisper.clear_log()
    with caplog.at_level(logging.DEBUG):
        llama._collect_error(4, SENT, None)
        whisper._hear(4, SENT, None)
    assert llama.last_error() == whisper.last_log_line("") == SENT.decode()
    assert not caplog.records
    llama.clear_errors()
    whisper.clear_log()
