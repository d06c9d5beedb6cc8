"""What ended a worker process, in words."""

from __future__ import annotations

import re
import signal

from batch.queue.jobs import Kind

_LIBRARIES = {Kind.VLM: "llama.cpp", Kind.EMBEDDING: "llama.cpp", Kind.STT: "whisper.cpp"}
_SIGNALS = {
    signal.SIGILL: "stopped with an illegal instruction: its build does not fit this processor",
    signal.SIGSEGV: "crashed (segmentation fault)",
    signal.SIGBUS: "crashed (bus error), as it does when a file is cut short or a disk fails",
    signal.SIGFPE: "crashed (arithmetic error)",
    signal.SIGABRT: "gave up (abort)",
}
_PYTHON_ERROR = re.compile(r"(?:[\w.]+\.)?(\w*(?:Error|Exception))(?:: .*)?")
"""The last line of a traceback."""
_MAX_LINE_CHARS = 300


def describe_death(kind: Kind, status: int, last_line: str) -> str:
    """One clause without a full stop, from a worker's exit status (negative: a signal) and its last line of output."""
    if status < 0:
        number = signal.Signals(-status) if -status in set(signal.Signals) else None
        if number in _SIGNALS:
            return f"{_LIBRARIES[kind]} {_SIGNALS[number]}"
        if number is signal.SIGKILL:
            return f"the {kind} worker was killed, maybe by the system for want of memory"
        return f"the {kind} worker was ended by {number.name if number else f'signal {-status}'}"
    if _PYTHON_ERROR.fullmatch(last_line):
        return f"the {kind} worker ended with {last_line[:_MAX_LINE_CHARS].rstrip('.')}"
    return f"the {kind} worker ended with exit status {status}"
