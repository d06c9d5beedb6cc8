"""llama.cpp's library and a loaded model: weights, vocabulary, tokens to text and back."""

from __future__ import annotations

import ctypes
import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as _bindings
import numpy as np

from batch.errors import ModelProblem

lib: Any = _bindings
"""The low-level bindings, untyped: their ctypes stubs fight a type checker and are never wrong at run time."""

log = logging.getLogger(__name__)

_ERROR = 4
_CONTROL = 1 << 3
_USER_DEFINED = 1 << 4


class _Complaints(threading.local):
    """Each thread's own, as questions are answered beside a running job: the library logs in the thread that called."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=20)


_complaints = _Complaints()


def _keep_errors(level: int, text: bytes | None, _: int | None) -> None:
    if level == _ERROR and text:
        line = text.decode("utf-8", "replace").strip()
        if line:
            _complaints.lines.append(line)
            log.debug("llama.cpp: %s", line)


# A collected callback is a segfault in the next log line, so this reference lives as long as the process.
log_callback = lib.llama_log_callback(_keep_errors)


@lru_cache(maxsize=1)
def start() -> None:
    """Initialise the library once a process; its chatter is dropped, its errors are kept for `complaint`."""
    lib.llama_log_set(log_callback, None)
    lib.llama_backend_init()


def complaint() -> str:
    """The library's last error line in this thread, or an empty string."""
    return _complaints.lines[-1] if _complaints.lines else ""


def quiet() -> None:
    """Forget earlier error lines, before a call whose own matters."""
    _complaints.lines.clear()


class Model:
    """One GGUF file's weights and vocabulary. Its reading methods may be called from any thread."""

    def __init__(self, path: Path, *, gpu_layers: int = -1, report: Callable[[float], None] | None = None) -> None:
        """Load the file, reporting 0..1; raises ModelProblem with a sentence that names it."""
        start()
        self.path = path
        if not path.is_file():
            raise ModelProblem(f"The model file {path} does not exist: run `batch models pull` or set another path.")
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelProblem(f"The model file {path} is not a GGUF file: fetch it again.")
        params = lib.llama_model_default_params()
        params.n_gpu_layers = gpu_layers if lib.llama_supports_gpu_offload() else 0

        def progress(done: float, _: int | None) -> bool:
            if report is not None:
                report(float(done))
            return True

        callback = lib.llama_progress_callback(progress)
        params.progress_callback = callback
        quiet()
        self.handle = lib.llama_model_load_from_file(str(path).encode(), params)
        if not self.handle:
            raise ModelProblem(f"The model file {path} cannot be loaded ({complaint() or 'it may be damaged'}).")
        self.vocab = lib.llama_model_get_vocab(self.handle)
        self.n_vocab = int(lib.llama_vocab_n_tokens(self.vocab))
        self.n_ctx_train = int(lib.llama_model_n_ctx_train(self.handle))
        self.n_embd = int(lib.llama_model_n_embd(self.handle))
        self.n_swa = int(lib.llama_model_n_swa(self.handle))
        self.n_params = int(lib.llama_model_n_params(self.handle))
        self.size = int(lib.llama_model_size(self.handle))
        self.bos = int(lib.llama_vocab_bos(self.vocab))
        self.eos = int(lib.llama_vocab_eos(self.vocab))
        self.add_bos = bool(lib.llama_vocab_get_add_bos(self.vocab))
        self.add_eos = bool(lib.llama_vocab_get_add_eos(self.vocab))
        self._pieces: dict[int, bytes] = {}
        self._special_pieces: dict[int, bytes] = {}

    def close(self) -> None:
        if self.handle:
            lib.llama_model_free(self.handle)
            self.handle = None

    def tokenize(self, text: str | bytes, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        """Token ids of a text; `parse_special` turns the texts of control tokens into those tokens."""
        data = text.encode("utf-8", "replace") if isinstance(text, str) else text
        room = len(data) + 8
        while True:
            ids = (ctypes.c_int32 * room)()
            n = lib.llama_tokenize(self.vocab, data, len(data), ids, room, add_special, parse_special)
            if n >= 0:
                return list(ids[:n])
            room = -n

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of a token, possibly part of a UTF-8 character; control tokens are empty unless `special`."""
        table = self._special_pieces if special else self._pieces
        known = table.get(token)
        if known is None:
            known = table[token] = self._piece(token, special)
        return known

    def _piece(self, token: int, special: bool) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            n = lib.llama_token_to_piece(self.vocab, token, buffer, room, 0, special)
            if n >= 0:
                return buffer.raw[:n]
            room = -n

    def detokenize(self, tokens: list[int], *, special: bool = True) -> bytes:
        """The bytes of many tokens, as llama-server's /detokenize joins them."""
        return b"".join(self.piece(t, special=special) for t in tokens if 0 <= t < self.n_vocab)

    def text(self, token: int) -> str:
        """A token's text with control tokens shown; an empty string for "no such token" (-1)."""
        return self.piece(token, special=True).decode("utf-8", "replace") if 0 <= token < self.n_vocab else ""

    def is_end(self, token: int) -> bool:
        """Whether the token ends a generation."""
        return bool(lib.llama_vocab_is_eog(self.vocab, token))

    @property
    def ends(self) -> frozenset[int]:
        """All tokens that end a generation."""
        known: frozenset[int] | None = self.__dict__.get("_ends")
        if known is None:
            is_eog, vocab = lib.llama_vocab_is_eog, self.vocab
            known = self.__dict__["_ends"] = frozenset(t for t in range(self.n_vocab) if is_eog(vocab, t))
        return known

    @property
    def openings(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The first byte of every token's text, (n_vocab,); 0 where it is no plain text."""
        known: np.ndarray[Any, np.dtype[np.uint8]] | None = self.__dict__.get("_openings")
        if known is None:
            attr, vocab = lib.llama_vocab_get_attr, self.vocab
            plain = (
                b"" if int(attr(vocab, t)) & (_CONTROL | _USER_DEFINED) else self._piece(t, False) for t in range(self.n_vocab)
            )
            known = self.__dict__["_openings"] = np.fromiter((next(iter(text), 0) for text in plain), np.uint8, self.n_vocab)
        return known

    @property
    def letters(self) -> np.ndarray[Any, np.dtype[np.int32]]:
        """A token for each ASCII character that is one by itself, (128,); -1 where there is none."""
        known: np.ndarray[Any, np.dtype[np.int32]] | None = self.__dict__.get("_letters")
        if known is None:
            known = self.__dict__["_letters"] = np.full(128, -1, np.int32)
            for byte in range(1, 128):
                for token in self.tokenize(bytes([byte]), parse_special=False):
                    if self.openings[token] == byte and self.piece(token) == bytes([byte]):
                        known[byte] = token
        return known

    @property
    def special_texts(self) -> tuple[frozenset[str], frozenset[str]]:
        """Texts of the control tokens, and of the tokens that a tokeniser cuts out of any text (user-defined)."""
        known: tuple[frozenset[str], frozenset[str]] | None = self.__dict__.get("_special_texts")
        if known is None:
            attr, vocab = lib.llama_vocab_get_attr, self.vocab
            control: set[str] = set()
            user: set[str] = set()
            for token in range(self.n_vocab):
                bits = int(attr(vocab, token))
                if bits & (_CONTROL | _USER_DEFINED):
                    raw = lib.llama_vocab_get_text(vocab, token) or b""
                    (control if bits & _CONTROL else user).add(raw.decode("utf-8", "replace"))
            # One-character user-defined tokens are runs of spaces, newlines and the like: cutting them means nothing.
            known = (
                frozenset(t for t in control if len(t) > 1),
                frozenset(t for t in user if len(t) > 1 and t.strip() and not t.isspace()),
            )
            self.__dict__["_special_texts"] = known
        return known

    def chat_template(self) -> str | None:
        """The chat template (Jinja) that the file carries."""
        raw = lib.llama_model_chat_template(self.handle, None)
        return raw.decode("utf-8", "replace") if raw else None

    def metadata(self, key: str) -> str | None:
        """A scalar of the GGUF header as text."""
        room = 256
        while True:
            buffer = ctypes.create_string_buffer(room)
            n = lib.llama_model_meta_val_str(self.handle, key.encode(), buffer, room)
            if n < 0:
                return None
            if n < room:
                return buffer.value.decode("utf-8", "replace")
            room = n + 1

    def description(self) -> str:
        buffer = ctypes.create_string_buffer(256)
        lib.llama_model_desc(self.handle, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")
