"""llama.cpp's shared library: its bindings, its start, what it complained about last, and what it says while asked to."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import llama_cpp._ggml as _ggml_bindings
import llama_cpp.llama_cpp as _bindings

lib: Any = _bindings
"""The low-level bindings, untyped: their ctypes stubs fight a type checker and are never wrong at run time."""

ggml: Any = _ggml_bindings.libggml
"""ggml's library as ctypes opened it: what is called of it is declared where it is called."""

_GGML_LOG_LEVEL_ERROR = 4


class _ErrorLines(threading.local):
    """The library's error lines, a list for each thread: it logs in the thread that called it, and questions are answered
    beside a running job."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=20)
        self.said: list[str] | None = None
        """All lines, of any level, while somebody collects them."""


_errors = _ErrorLines()


def _collect_error(level: int, text: bytes | None, _: int | None) -> None:
    if text and _errors.said is not None:
        _errors.said.append(text.decode("utf-8", "replace"))
    if level == _GGML_LOG_LEVEL_ERROR and text:
        line = text.decode("utf-8", "replace").strip()
        if line:
            _errors.lines.append(line)  # and not logged: it may quote what a client sent


# A collected callback is a segfault in the next log line, so this reference lives as long as the process.
log_callback = lib.llama_log_callback(_collect_error)


@lru_cache(maxsize=1)
def initialise_library() -> None:
    """Start the library, once a process. It prints nothing; its error lines are kept for `last_error`."""
    lib.llama_log_set(log_callback, None)
    lib.llama_backend_init()


def last_error() -> str:
    """The last error line that the library logged in this thread since `clear_errors`, or an empty string."""
    return _errors.lines[-1] if _errors.lines else ""


def clear_errors() -> None:
    """Forget this thread's earlier error lines, before a call whose own error will be reported."""
    _errors.lines.clear()


@contextmanager
def collected_lines() -> Iterator[list[str]]:
    """All that the library logs in this thread while this lasts, in the pieces in which it does."""
    said: list[str] = []
    _errors.said = said
    try:
        yield said
    finally:
        _errors.said = None
