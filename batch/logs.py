"""The log: one file a home, rotated by size, that also has what the workers and the C libraries write to their pipes.

Nothing that logs ever waits for a disk or a pipe: each target has a bounded queue and a thread of its own. No prompt,
text or file content is ever logged; names of files and ids of jobs are.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import logging
import logging.handlers
import os
import queue
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO

from batch.settings import Settings

NAME = "batch.log"
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
MAX_PENDING_RECORDS = 10_000
"""Records that may wait for a slow target; further ones are dropped and counted."""
MAX_LINE_BYTES = 8192
"""After so much a worker's line is cut."""
_READ_BYTES = 65536
_MARK = re.compile(r"<(\d\d?)>(?:([\w.]+): )?")
"""What `WorkerFormatter` puts before every line: level and logger's name."""
_FAULT = re.compile(
    r"GGML_ASSERT|ggml_abort|CUDA error|terminate called|what\(\):|Fatal Python error|^(?:Current thread|Thread) 0x"
    r'|^  File "[^"]*", line \d+ in |std::bad_alloc|out of memory|malloc\(\)|free\(\)|corrupted|^Aborted|Segmentation fault'
)
"""Lines in which libraries and the interpreter say that they break; none of these quotes a client."""
_MAX_CHAINED_ERRORS = 4
# Tabs and newlines stay; anything else could steer the terminal of who reads the log.
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code not in (9, 10)}


def file_of(home: Path) -> Path:
    return home / ".batch" / "logs" / NAME


class _WordlessFormatter(logging.Formatter):
    """Says of an error what it is and where it happened; its own words may quote what a client sent."""

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_info:
            record = copy.copy(record)
            record.exc_text = None  # another handler's, with those words
        return super().format(record)

    def formatException(self, ei: Any) -> str:
        parts: list[str] = []
        error: BaseException | None = ei[1]
        while error is not None and len(parts) < _MAX_CHAINED_ERRORS:
            kind = type(error)
            reason = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
            frames = "".join(traceback.format_tb(error.__traceback__))
            parts.append(f"Traceback (most recent call last):\n{frames}{kind.__qualname__}{reason}")
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "\nwhile handling\n".join(parts)


class _Formatter(_WordlessFormatter):
    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).translate(_CONTROL)

    def formatMessage(self, record: logging.LogRecord) -> str:
        # One record, one line, whatever a file is called; only tracebacks, which come after it, have more.
        record.message = record.message.replace("\n", "\\n")
        return super().formatMessage(record)


class WorkerFormatter(_WordlessFormatter):
    """A worker's lines on the pipe for its log, marked with their level for the supervisor."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{record.levelno}>{record.name}: "
        return "\n".join(prefix + line for line in super().format(record).splitlines() or [""])


class _Quiet:
    """A log that cannot be written (disk full, terminal gone) must not make more noise, nor end anything."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


class _File(_Quiet, logging.handlers.RotatingFileHandler):
    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return open(descriptor, "a", encoding=self.encoding, errors="backslashreplace")


class _Terminal(_Quiet, logging.StreamHandler):  # type: ignore[type-arg]
    pass


class _Beside(logging.handlers.QueueHandler):
    """Hands records to a thread that writes them to `target`."""

    def __init__(self, target: logging.Handler) -> None:
        self._records: queue.Queue[logging.LogRecord | None] = queue.Queue(MAX_PENDING_RECORDS)
        super().__init__(self._records)
        self._target = target
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        record.getMessage()  # a broken format string is told where it stands
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self._records.put_nowait(record)
        except queue.Full:
            self._dropped += 1

    def _write(self) -> None:
        while (record := self._records.get()) is not None:
            self._target.handle(record)
            if self._dropped and self._records.empty():
                dropped, self._dropped = self._dropped, 0
                self._target.handle(
                    logging.makeLogRecord(
                        {
                            "name": "batch.logs",
                            "levelno": logging.WARNING,
                            "levelname": "WARNING",
                            "msg": f"{dropped} lines are missing here: they came faster than they could be written",
                        }
                    )
                )

    def end(self, seconds: float = 2.0) -> None:
        """Write what waits, but not for longer than this."""
        with contextlib.suppress(queue.Full):
            self._records.put(None, timeout=seconds)
        self._thread.join(seconds)


def to_terminal(settings: Settings) -> None:
    """Begin to log, to standard error; records go through a thread, so a stuck reader stops nobody."""
    _add(_Terminal(sys.stderr), settings)
    logging.captureWarnings(True)
    threading.excepthook = lambda failed: logging.getLogger("batch.threads").error(
        "a thread ended with an error",
        exc_info=(failed.exc_type, failed.exc_value or failed.exc_type(), failed.exc_traceback),
    )


def _add(target: logging.Handler, settings: Settings) -> None:
    target.setFormatter(_Formatter(_FORMAT))
    beside = _Beside(target)
    root = logging.getLogger()
    root.setLevel(settings.log_level.upper())
    root.addHandler(beside)
    atexit.register(beside.end)


def to_file(settings: Settings) -> None:
    """From now on, log into the home's file too. Only for the one service of a home: two would rotate it under each other."""
    path = file_of(settings.home)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        file = _File(path, maxBytes=settings.log_bytes, backupCount=settings.log_files, encoding="utf-8")
    except OSError as error:  # a service without a log is better than none
        logging.getLogger("batch.logs").warning("there is no log file: %s", error)
    else:
        _add(file, settings)


def last_words(settings: Settings, sentence: str) -> None:
    """One line into the file from a service that could not start, without disturbing one that runs."""
    with contextlib.suppress(OSError):
        descriptor = os.open(file_of(settings.home), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            record = logging.makeLogRecord({"name": "batch", "levelname": "ERROR", "msg": sentence})
            os.write(descriptor, _Formatter(_FORMAT).format(record).encode("utf-8", "backslashreplace") + b"\n")
        finally:
            os.close(descriptor)


class WorkerOutput:
    """Collects what a worker process logs, and what it and its libraries write past Python's logging, in two threads, so
    that they never wait for a full pipe.

    Records come through a pipe of their own, because a library may echo what a client sent. While the model serves, of the
    rest only what tells of a fault is logged.
    """

    def __init__(self, worker: str, *, is_serving: Callable[[], bool] = lambda: False) -> None:
        self._logger = logging.getLogger(f"batch.worker.{worker}")
        self._is_serving = is_serving
        self.last_line = ""
        """The last line that was written past Python's logging: a traceback's end, a library's last words."""
        log_reader, self.log_writer = os.pipe()
        """Descriptor for the process's log records."""
        raw_reader, self.raw_writer = os.pipe()
        """Descriptor for its standard output and error."""
        self._threads = [
            threading.Thread(target=self._read, args=(reader, handle), name=f"{worker} {what}", daemon=True)
            for reader, handle, what in (
                (log_reader, self._log_record, "log"),
                (raw_reader, self._log_raw, "output"),
            )
        ]
        for thread in self._threads:
            thread.start()

    def close_writers(self) -> None:
        """Close our ends once the process has them."""
        os.close(self.log_writer)
        os.close(self.raw_writer)

    def _read(self, descriptor: int, handle: Callable[[str], None]) -> None:
        rest = b""
        with open(descriptor, "rb", buffering=0) as pipe:
            while piece := pipe.read(_READ_BYTES):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    handle(_text_of(line))
                if len(rest) > MAX_LINE_BYTES:
                    handle(_text_of(rest))
                    rest = b""
        handle(_text_of(rest))

    def _log_record(self, text: str) -> None:
        if marked := _MARK.match(text):
            self._logger.log(int(marked[1]), "%s", text[marked.end() :])
        elif text:
            self._logger.warning("%s", text)

    def _log_raw(self, text: str) -> None:
        if not text:
            return
        self.last_line = text
        if not self._is_serving() or _FAULT.search(text):
            self._logger.warning("%s", text)

    def end(self, timeout_s: float = 1.0) -> None:
        """Wait for the last lines; a child of the worker that keeps the pipes open is not waited for."""
        for thread in self._threads:
            thread.join(timeout_s)


def _text_of(line: bytes) -> str:
    text = line[:MAX_LINE_BYTES].decode("utf-8", "replace").rstrip("\r")
    return text if text.strip() else ""


def tail(path: Path, count: int) -> tuple[list[str], BinaryIO | None]:
    """The last `count` lines, over the rotated files too; also the newest file, opened at its end, for `follow`."""
    tail_lines: list[str] = []
    newest: BinaryIO | None = None
    for part in parts(path):
        file = _opened(part)
        if file is None:
            continue
        lines = [line.decode("utf-8", "replace") for line in file.read().splitlines()]
        tail_lines = lines[max(0, len(lines) - (count - len(tail_lines))) :] + tail_lines
        if newest is None:
            newest = file
        else:
            file.close()
        if len(tail_lines) >= count:
            break
    return tail_lines, newest


def parts(path: Path) -> list[Path]:
    """The log's files that are there, the newest first."""
    older = ((int(p.suffix[1:]), p) for p in path.parent.glob(f"{path.name}.*") if p.suffix[1:].isdigit())
    return [p for p in (path, *(p for _, p in sorted(older))) if p.exists()]


def follow(
    path: Path, file: BinaryIO | None, pause: float = 0.2, *, is_wanted: Callable[[], bool] = lambda: True
) -> Generator[str, None, None]:
    """Lines as they are written behind where `file` stands, through every rotation, until no longer `is_wanted`."""
    rest = b""
    try:
        while is_wanted():
            if file is None:
                file = _opened(path)
                if file is None:
                    time.sleep(pause)
                continue
            # Looked up before the read: a file that has a successor by then is read to its end.
            successor = _successor(path, file)
            *lines, rest = (rest + file.read()).split(b"\n")
            for line in lines:
                yield line.decode("utf-8", "replace")
            if successor is not None:
                file.close()
                file = successor
            elif not lines:
                time.sleep(pause)
    finally:
        if file is not None:
            file.close()


def _opened(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _successor(path: Path, file: BinaryIO) -> BinaryIO | None:
    """The file that was begun after this one; None while this is the newest."""
    inode = os.fstat(file.fileno()).st_ino
    files = _inodes(path)
    if not files or files[0][1] == inode or files != _inodes(path):
        return None  # the newest, or the files are being renamed at this very moment
    inodes = [number for _, number in files]
    # A file that was rotated out of existence meanwhile is followed by the oldest there is.
    name, number = files[inodes.index(inode) - 1 if inode in inodes else -1]
    successor = _opened(name)
    if successor is not None and os.fstat(successor.fileno()).st_ino != number:
        successor.close()
        return None
    return successor


def _inodes(path: Path) -> list[tuple[Path, int]]:
    return [(part, _inode(part)) for part in parts(path)]


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


__all__ = ["WorkerFormatter", "WorkerOutput", "file_of", "follow", "last_words", "tail", "to_file", "to_terminal"]
