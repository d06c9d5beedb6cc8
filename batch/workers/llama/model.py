"""A model file loaded by llama.cpp: weights, vocabulary, tokens to text and back."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from batch.errors import ModelProblem
from batch.workers.llama.library import clear_errors, initialise_library, last_error, lib
from batch.workers.llama.row_tables import gpu_overrides, table_types

_ATTR_CONTROL = 1 << 3
_ATTR_USER_DEFINED = 1 << 4


def is_recurrent(model: ctypes.c_void_p) -> bool:
    """Of a model of llama.cpp's, of which the header is enough: whether some layers keep a state of no positions."""
    return bool(lib.llama_model_is_recurrent(model)) or bool(lib.llama_model_is_hybrid(model))


class Model:
    """One GGUF file's weights and vocabulary. Its reading methods may be called from any thread."""

    def __init__(
        self,
        path: Path,
        *,
        gpu_layers: int = -1,
        repack: bool = True,
        tables_on_gpu: bool = False,
        report: Callable[[float], None] | None = None,
    ) -> None:
        """Load the file, reporting the loaded share (0 to 1); raises ModelProblem with a sentence that names the file.

        `repack`: weights are copied into the order that this processor computes fastest with. `tables_on_gpu`: where there is
        one GPU that can read them, also the tables that llama.cpp leaves to the processor.
        """
        initialise_library()
        self.path = path
        if not path.is_file():
            raise ModelProblem(f"The model file {path} does not exist: run `batch models pull` or set another path.")
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelProblem(f"The model file {path} is not a GGUF file: fetch it again.")
        params = lib.llama_model_default_params()
        params.n_gpu_layers = gpu_layers if lib.llama_supports_gpu_offload() else 0
        params.use_extra_bufts = repack
        overrides = gpu_overrides(table_types(path)) if tables_on_gpu else None
        params.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p) if overrides is not None else None

        def report_progress(share: float, _: int | None) -> bool:
            if report is not None:
                report(float(share))
            return True

        callback = lib.llama_progress_callback(report_progress)
        params.progress_callback = callback
        clear_errors()
        self.handle = lib.llama_model_load_from_file(str(path).encode(), params)
        if not self.handle:
            raise ModelProblem(f"The model file {path} cannot be loaded ({last_error() or 'it may be damaged'}).")
        self.vocab = lib.llama_model_get_vocab(self.handle)
        self.n_vocab = int(lib.llama_vocab_n_tokens(self.vocab))
        self.n_ctx_train = int(lib.llama_model_n_ctx_train(self.handle))
        self.n_embd = int(lib.llama_model_n_embd(self.handle))
        self.n_swa = int(lib.llama_model_n_swa(self.handle))
        self.n_params = int(lib.llama_model_n_params(self.handle))
        self.size = int(lib.llama_model_size(self.handle))
        """Bytes of the weights."""
        self.bos = int(lib.llama_vocab_bos(self.vocab))
        self.eos = int(lib.llama_vocab_eos(self.vocab))
        self.add_bos = bool(lib.llama_vocab_get_add_bos(self.vocab))
        self._pieces: dict[int, bytes] = {}
        self._special_pieces: dict[int, bytes] = {}

    def close(self) -> None:
        """Free the weights. Harmless when called again."""
        if self.handle:
            lib.llama_model_free(self.handle)
            self.handle = None

    @property
    def can_roll_back(self) -> bool:
        """Whether a context of this model keeps every position of every layer: no sliding window, no recurrent state."""
        return self.n_swa <= 0 and not self.is_recurrent

    @property
    def is_recurrent(self) -> bool:
        """Whether some layers keep a state that cannot be rolled back by positions at all."""
        return is_recurrent(self.handle)

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
        cache = self._special_pieces if special else self._pieces
        data = cache.get(token)
        if data is None:
            data = cache[token] = self._read_piece(token, special)
        return data

    def shown_piece(self, token: int) -> str | list[int]:
        """A token's text, control tokens shown, as llama-server writes it: bytes where they are no whole characters."""
        data = self.piece(token, special=True)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return list(data)

    def _read_piece(self, token: int, special: bool) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            n = lib.llama_token_to_piece(self.vocab, token, buffer, room, 0, special)
            if n >= 0:
                return buffer.raw[:n]
            room = -n

    def all_pieces(self) -> list[bytes]:
        """The bytes of every token, in order, control tokens shown."""
        return [self._read_piece(token, True) for token in range(self.n_vocab)]

    def detokenize(self, tokens: list[int], *, special: bool = True) -> bytes:
        """The bytes of many tokens, joined as llama-server's /detokenize joins them; ids out of range are left out."""
        return b"".join(self.piece(t, special=special) for t in tokens if 0 <= t < self.n_vocab)

    def token_text(self, token: int) -> str:
        """A token's text with control tokens shown; an empty string for "no such token" (-1)."""
        return self.piece(token, special=True).decode("utf-8", "replace") if 0 <= token < self.n_vocab else ""

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """All tokens that end a generation."""
        is_eog, vocab = lib.llama_vocab_is_eog, self.vocab
        return frozenset(t for t in range(self.n_vocab) if is_eog(vocab, t))

    @cached_property
    def special_texts(self) -> tuple[frozenset[str], frozenset[str]]:
        """Texts of the control tokens, and of the user-defined tokens, which a tokeniser cuts out of any text."""

        def texts(tokens: frozenset[int]) -> set[str]:
            return {(lib.llama_vocab_get_text(self.vocab, t) or b"").decode("utf-8", "replace") for t in tokens}

        control, user_defined = map(texts, self._special_tokens)
        # One-character user-defined tokens are runs of spaces, newlines and the like: cutting them means nothing.
        return (
            frozenset(t for t in control if len(t) > 1),
            frozenset(t for t in user_defined if len(t) > 1 and t.strip() and not t.isspace()),
        )

    @property
    def control_tokens(self) -> frozenset[int]:
        """Ids of the control tokens."""
        return self._special_tokens[0]

    @cached_property
    def _special_tokens(self) -> tuple[frozenset[int], frozenset[int]]:
        """Ids of the control tokens, and of the other tokens that are user-defined."""
        attr, vocab = lib.llama_vocab_get_attr, self.vocab
        bits = [int(attr(vocab, token)) for token in range(self.n_vocab)]
        return (
            frozenset(token for token, b in enumerate(bits) if b & _ATTR_CONTROL),
            frozenset(token for token, b in enumerate(bits) if b & _ATTR_USER_DEFINED and not b & _ATTR_CONTROL),
        )

    def chat_template(self) -> str | None:
        """The chat template (Jinja) that the file carries; None where it carries none."""
        raw = lib.llama_model_chat_template(self.handle, None)
        return raw.decode("utf-8", "replace") if raw else None

    def metadata(self, key: str) -> str | None:
        """A scalar of the GGUF header as text; None where the header has no such key."""
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
        """llama.cpp's description of the model: architecture, size, quantisation."""
        buffer = ctypes.create_string_buffer(256)
        lib.llama_model_desc(self.handle, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")
