"""The log: rotated, private, complete with the workers' last words, and silent about what people send."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch import logs
from batch.settings import Settings
from running_service import wait_until


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """The root logger as it was before, once the test is over."""
    root = logging.getLogger()
    before, level, hook = list(root.handlers), root.level, threading.excepthook
    yield logging.getLogger("batch.test")
    for handler in [h for h in root.handlers if h not in before]:
        root.removeHandler(handler)
        handler.end()  # type: ignore[attr-defined]
    root.setLevel(level)
    threading.excepthook = hook
    logging.captureWarnings(False)


def end_handlers(seconds: float) -> None:
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logs._Beside):
            handler.end(seconds)


def test_the_log_is_put_aside_by_size_keeps_a_bounded_number_of_files_and_is_its_owner_s_alone(
    tmp_path: Path, logger: logging.Logger
) -> None:
    settings = Settings.load(tmp_path, {"log_bytes": 5000, "log_files": 3})
    previous = os.umask(0)
    try:
        logs.to_file(settings)
        for number in range(1000):
            logger.info("line %d", number)
        path = logs.file_of(tmp_path)
        end_handlers(30)  # all is written, and nothing is put aside any more
    finally:
        os.umask(previous)
    files = logs.parts(path)
    assert len(files) == 4
    assert all(file.stat().st_size <= 5000 and file.stat().st_mode & 0o777 == 0o600 for file in files)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    lines, newest = logs.tail(path, 150)
    assert newest is not None
    newest.close()
    found = [line.rpartition(" ")[2] for line in lines]
    assert found == [str(number) for number in range(850, 1000)], "the last lines, over several files"


def test_who_follows_the_log_misses_no_line_and_sees_none_twice_while_it_rotates(
    tmp_path: Path, logger: logging.Logger
) -> None:
    logs.to_file(Settings.load(tmp_path, {"log_bytes": 4096, "log_files": 60}))
    path = logs.file_of(tmp_path)
    logger.info("line 0")
    wait_until(lambda: path.exists() and path.read_text(), "the first line")
    found, newest = logs.tail(path, 10)

    def write() -> None:
        for number in range(1, 2000):
            logger.info("line %d", number)
            if number % 100 == 0:
                time.sleep(0.005)

    writing = threading.Thread(target=write)
    writing.start()
    with contextlib.closing(logs.follow(path, newest, pause=0.01)) as following:
        found += itertools.islice(following, 1999)
    writing.join()
    assert [line.rpartition(" ")[2] for line in found] == [str(number) for number in range(2000)]


def test_what_logs_never_waits_for_a_reader_that_does_not_read(tmp_path: Path, logger: logging.Logger) -> None:
    read, write = os.pipe()
    with open(read, "rb"), open(write, "w") as stuck:
        logs._add(logs._Terminal(stuck), Settings.load(tmp_path))
        begun = time.monotonic()
        for _ in range(3000):
            logger.info("%s", "x" * 100)  # far more than a pipe holds
        assert time.monotonic() - begun < 60  # a full pipe would hold it up for ever
        # The reader comes back: the waiting thread gets on.
        reading = threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(read, 65536), b"")], daemon=True)
        reading.start()
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logs._Beside):
                handler.end(10)
        stuck.close()
        reading.join(10)  # before its end of the pipe is closed under it


def test_a_worker_that_writes_more_than_a_pipe_holds_is_never_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []
    monkeypatch.setattr(logging.getLogger("batch.worker.vlm"), "warning", lambda form, line: found.append(line))
    output = logs.WorkerOutput("vlm")
    code = "import sys; [print('C library', i) for i in range(50_000)]; sys.stdout.write('y' * 30_000 + 'no newline')"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=output.raw_writer, stderr=output.raw_writer)
    output.close_writers()
    assert process.wait(60) == 0
    output.end(30)
    assert found[:50_000] == [f"C library {i}" for i in range(50_000)]
    assert len(found) > 50_000 and max(map(len, found)) <= logs.MAX_LINE_BYTES


def write_as_worker(output: logs.WorkerOutput, code: str) -> None:
    """Run code in a process whose logging and whose output go where a worker's go."""
    prepared = (
        "import logging, os, sys; from batch.logs import WorkerFormatter\n"
        f"h = logging.StreamHandler(os.fdopen({output.log_writer}, 'w')); h.setFormatter(WorkerFormatter())\n"
        "logging.basicConfig(level='DEBUG', handlers=[h])\n"
    )
    subprocess.run(
        [sys.executable, "-c", prepared + code],
        stdout=output.raw_writer,
        stderr=output.raw_writer,
        pass_fds=(output.log_writer,),
        check=True,
        timeout=60,
    )
    output.close_writers()
    output.end(30)


def test_a_worker_s_own_lines_keep_their_level_and_a_traceback_stays_together(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        write_as_worker(
            logs.WorkerOutput("stt"),
            "logging.info('all is well')\n"
            "try: 1 / 0\n"
            "except ZeroDivisionError: logging.exception('it broke')\n"
            "print('ggml: assertion failed', file=sys.stderr, flush=True)\n",
        )
    records = [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "batch.worker.stt"]
    own = [record for record in records if record != ("WARNING", "ggml: assertion failed")]
    assert len(own) == len(records) - 1, "what is written past Python's logging is a warning"
    assert own[0] == ("INFO", "all is well")
    assert {level for level, _ in own[1:]} == {"ERROR"} and own[-1][1] == "ZeroDivisionError"


def test_a_library_that_echoes_what_a_client_sent_forges_no_record_and_puts_nothing_of_it_into_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    output = logs.WorkerOutput("vlm", is_serving=lambda: True)
    with caplog.at_level(logging.DEBUG):
        write_as_worker(
            output,
            "sys.stderr.write('parse: error parsing grammar: expecting name at <50>batch.supervisor: the service is lost\\n')\n"
            "sys.stderr.write('<50>batch.supervisor: root ::= secret\\n<40>x: secret\\n')\n"
            "sys.stderr.write('/src/ggml.c:77: GGML_ASSERT(n > 0) failed\\n')\n",
        )
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [("WARNING", "/src/ggml.c:77: GGML_ASSERT(n > 0) failed")]
    assert output.last_line.endswith("failed")


def test_an_error_that_nobody_expected_is_logged_without_its_words_which_may_quote_a_client(
    tmp_path: Path, logger: logging.Logger
) -> None:
    logs.to_file(Settings.load(tmp_path))
    sent = "secret " * 3
    try:
        try:
            {}[sent]
        except KeyError as error:
            raise OSError(28, "No space left on device", sent) from error
    except OSError:
        logger.exception("it broke")
    failure = (ValueError, ValueError(sent), None)
    worker = logs.WorkerFormatter().format(logging.LogRecord("batch.w", 40, "", 1, "it broke", None, failure))
    end_handlers(5)
    text = logs.file_of(tmp_path).read_text()
    assert "it broke" in text and "KeyError" in text and "OSError: No space left on device" in text
    assert "test_logs.py" in text and sent not in text
    assert worker.splitlines()[-1] == "<40>batch.w: ValueError"


def test_names_of_files_cannot_forge_lines_nor_steer_a_terminal(tmp_path: Path, logger: logging.Logger) -> None:
    logs.to_file(Settings.load(tmp_path))
    logger.error("%s is odd", "a\n2026-01-01 ERROR batch: forged\x1b[2J\udcff.png")
    path = logs.file_of(tmp_path)
    wait_until(lambda: path.exists() and "is odd" in path.read_text(), "it is written")
    assert len(path.read_text().splitlines()) == 1 and "\x1b" not in path.read_text()
