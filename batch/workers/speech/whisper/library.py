"""whisper.cpp's own functions and structures beside what pywhispercpp binds, in the very same library.

pywhispercpp's `Model` hides return codes and keeps parameters between calls, so its low-level functions are used, with
fresh parameters a call.
"""

from __future__ import annotations

import atexit
import ctypes
from collections import deque
from typing import Any

import _pywhispercpp as pw

_last_lines: deque[str] = deque(maxlen=8)
_WARNING_LEVEL = 3

# dlsym on the extension module's handle also searches the libraries it was linked to, so this is the very same
# whisper.cpp; opening the library by its own name could load a second one.
library = ctypes.CDLL(pw.__file__)
_LOG_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
library.whisper_log_set.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
library.whisper_log_set.restype = None
library.whisper_pcm_to_mel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
library.whisper_encode.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
library.whisper_lang_auto_detect.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
library.whisper_decode.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]
library.whisper_get_logits.argtypes = [ctypes.c_void_p]
library.whisper_get_logits.restype = ctypes.POINTER(ctypes.c_float)


class ContextParams(ctypes.Structure):
    """whisper_context_params of whisper.cpp 1.8, which pywhispercpp binds in part."""

    _fields_ = (
        ("use_gpu", ctypes.c_bool),
        ("flash_attn", ctypes.c_bool),
        ("gpu_device", ctypes.c_int),
        ("dtw_token_timestamps", ctypes.c_bool),
        ("dtw_aheads_preset", ctypes.c_int),
        ("dtw_n_top", ctypes.c_int),
        ("dtw_aheads_count", ctypes.c_size_t),
        ("dtw_aheads", ctypes.c_void_p),
        ("dtw_mem_size", ctypes.c_size_t),
    )

    def values(self) -> tuple[Any, ...]:
        """Every field's value, in order."""
        return tuple(getattr(self, field[0]) for field in self._fields_)


class VadParams(ctypes.Structure):
    """whisper_vad_context_params of whisper.cpp 1.8."""

    _fields_ = (("n_threads", ctypes.c_int), ("use_gpu", ctypes.c_bool), ("gpu_device", ctypes.c_int))


library.whisper_vad_init_from_file_with_params.argtypes = [ctypes.c_char_p, VadParams]
library.whisper_vad_init_from_file_with_params.restype = ctypes.c_void_p
library.whisper_vad_reset_state.argtypes = [ctypes.c_void_p]
library.whisper_vad_reset_state.restype = None
library.whisper_vad_detect_speech_no_reset.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
library.whisper_vad_detect_speech_no_reset.restype = ctypes.c_bool
library.whisper_vad_probs.argtypes = [ctypes.c_void_p]
library.whisper_vad_probs.restype = ctypes.POINTER(ctypes.c_float)
library.whisper_vad_free.argtypes = [ctypes.c_void_p]
library.whisper_vad_free.restype = None

DEFAULT_CONTEXT_PARAMS = (True, True, 0, False, 0, -1, 0, None, 128 << 20)
"""What whisper.cpp 1.8 fills the structure with; anything else means that it is laid out in another way."""

_PARAMS_OFFSET = 24
"""Where the context keeps its copy, behind two times and two types."""


def wrapped_value(wrapper: Any) -> int | None:
    """Address of the C++ value inside a pybind11 object, which follows the Python header; None where it holds none."""
    return ctypes.c_void_p.from_address(id(wrapper) + object.__basicsize__).value


def params_of(wrapper: Any) -> ContextParams | None:
    """pywhispercpp's context parameters as a structure; None where they are not laid out as known."""
    address = wrapped_value(wrapper)
    if address is None:
        return None
    params = ContextParams.from_address(address)
    return params if params.values() == DEFAULT_CONTEXT_PARAMS else None


def params_in_context(context: int, original: ContextParams) -> ContextParams | None:
    """The parameters that a loaded context goes by, to be changed between calls; None where they are not found in it.

    Flash attention is faster but gives no attention weights, and those are needed only for calls that want the times
    of words.
    """
    params = ContextParams.from_address(context + _PARAMS_OFFSET)
    return params if params.values() == original.values() else None


def _hear(level: int, text: bytes | None, _data: int | None) -> None:
    line = (text or b"").decode("utf-8", "replace").rstrip()
    if level >= _WARNING_LEVEL and line:
        _last_lines.append(line)  # and not logged: it may quote what a client sent


_log_callback = _LOG_CALLBACK(_hear)


def hook_log() -> None:
    """Keep whisper.cpp off stderr. Its hook must be gone before the interpreter is, or the process aborts."""
    library.whisper_log_set(_log_callback, None)
    atexit.unregister(unhook_log)
    atexit.register(unhook_log)


def unhook_log() -> None:
    """Give whisper.cpp its own log back."""
    library.whisper_log_set(None, None)


def clear_log() -> None:
    """Forget what was logged so far."""
    _last_lines.clear()


def last_log_line(otherwise: str) -> str:
    """The latest warning or error since `clear_log`, or `otherwise`."""
    return _last_lines[-1] if _last_lines else otherwise
