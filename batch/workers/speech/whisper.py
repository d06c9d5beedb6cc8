"""A Whisper model in whisper.cpp: samples in, segments out. No jobs, no files, no JSON.

pywhispercpp's `Model` hides return codes and keeps parameters between calls, so its low-level functions are used, with
fresh parameters a call. What they do not bind is called in the same library by ctypes.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _pywhispercpp as pw
import numpy as np
from numpy.typing import NDArray

from batch.errors import BatchError, ModelProblem
from batch.media import language as languages

RATE = 16_000
WINDOW = 30 * RATE
"""Samples that one encoder pass hears; anything shorter is padded and costs the same."""

LEAP = 5.0
"""Seconds that a first window must have brought for the rest to be left to another call."""

MOST_DECODERS = 8
"""whisper.cpp's bound on best_of and beam_size."""

PROMPT_BYTES = 1344
"""Bytes of a prompt's end that whisper.cpp is given: six for each of the 224 tokens that count."""

Samples = NDArray[np.float32]

_MAGIC = 0x67676D6C
# (items a block, bytes a block) of the tensor types that whisper files use
_TYPES = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    30: (1, 2),
}

_log = logging.getLogger(__name__)
_last_words: deque[str] = deque(maxlen=8)

# dlsym on the extension module's handle also searches the libraries it was linked to, so this is the very same
# whisper.cpp; opening the library by its own name could load a second one.
library = ctypes.CDLL(pw.__file__)
_LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
library.whisper_log_set.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
library.whisper_log_set.restype = None
library.whisper_pcm_to_mel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
library.whisper_lang_auto_detect.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
library.whisper_decode.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]
library.whisper_get_logits.argtypes = [ctypes.c_void_p]
library.whisper_get_logits.restype = ctypes.POINTER(ctypes.c_float)


def _hear(level: int, text: bytes | None, _data: int | None) -> None:
    line = (text or b"").decode("utf-8", "replace").rstrip()
    if level >= 3 and line:  # warnings and errors
        _last_words.append(line)
        _log.debug("whisper.cpp: %s", line)


_on_log = _LOG(_hear)


def listen_to_log() -> None:
    """Keep whisper.cpp off stderr. Its hook must be gone before the interpreter is, or the process aborts."""
    library.whisper_log_set(_on_log, None)
    atexit.unregister(_unhook)
    atexit.register(_unhook)


def _unhook() -> None:
    library.whisper_log_set(None, None)


class Aborted(Exception):
    """The call was stopped by its `stop`; what it had found is dropped."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How one stretch of sound is decoded; names and defaults are whisper-server's."""

    language: str = "en"
    translate: bool = False
    temperature: float = 0.0
    temperature_inc: float = 0.2
    prompt: str = ""
    carry_initial_prompt: bool = False
    best_of: int = 2
    beam_size: int = -1
    audio_ctx: int = 0
    max_context: int = -1
    word_thold: float = 0.01
    entropy_thold: float = 2.4
    logprob_thold: float = -1.0
    no_speech_thold: float = 0.6
    suppress_nst: bool = False
    tinydiarize: bool = False
    no_timestamps: bool = False
    token_timestamps: bool = False
    max_len: int = 0
    split_on_word: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    id: int
    text: bytes
    """May be a part of a character."""
    start: float
    end: float
    """Seconds; meaningless unless token_timestamps was asked."""
    p: float
    plog: float
    t_dtw: int


@dataclass(frozen=True, slots=True)
class Segment:
    start: float
    end: float
    """Seconds from the first sample."""
    text: str
    tokens: tuple[Token, ...]
    """Text tokens only."""
    avg_logprob: float
    no_speech_prob: float
    turn_next: bool


class WhisperModel:
    """One ggml model file, ready to transcribe. Everything but the constructor's facts belongs to one thread."""

    def __init__(self, path: Path, gpu: bool = False) -> None:
        """Raises ModelProblem with a sentence that names the file."""
        check(path)
        listen_to_log()
        _last_words.clear()
        given = pw.whisper_context_default_params()
        given.use_gpu = gpu
        self._wrapper = pw.whisper_init_from_file_with_params(str(path), given)
        # A pybind11 object starts, behind the Python header, with the address of its C++ value; that value is one
        # pointer, the context. It is null when the file did not load, and every bound call would then crash.
        value = ctypes.c_void_p.from_address(id(self._wrapper) + object.__basicsize__).value
        self._context = ctypes.c_void_p.from_address(value).value if value else None
        if not self._context:
            why = _last_words[-1] if _last_words else "whisper.cpp does not say why"
            raise ModelProblem(f"{path} could not be loaded as a Whisper model ({why}): fetch it again.")
        self.multilingual = bool(pw.whisper_is_multilingual(self._wrapper))
        self.n_vocab = int(pw.whisper_n_vocab(self._wrapper))
        known = self.n_vocab - 51_766 if self.multilingual else 1
        self.codes: tuple[str, ...] = languages.CODES[: max(1, min(known, len(languages.CODES)))]
        """Languages the model knows."""
        self.n_text_ctx = int(pw.whisper_n_text_ctx(self._wrapper))
        self.n_audio_ctx = int(pw.whisper_n_audio_ctx(self._wrapper))
        self.n_embd = int(pw.whisper_model_n_text_state(self._wrapper))
        self.size_name = str(pw.whisper_model_type_readable(self._wrapper))
        self._eot = int(pw.whisper_token_eot(self._wrapper))
        self._sot = int(pw.whisper_token_sot(self._wrapper))
        # <|nospeech|> stands before <|notimestamps|> in every model
        self._nobody = int(pw.whisper_token_not(self._wrapper)) - 1
        self._decoded = False
        self._windows = 0  # encoder passes of the latest call
        self.left_off: float | None = None
        """Where the latest call ended early, in seconds; None: it went to the end."""
        self._starts: dict[int, NDArray[np.float64]] = {}  # by window: probabilities of the first token
        self._owner: list[int] = []  # by segment: its window

    def close(self) -> None:
        if self._context:
            pw.whisper_free(self._wrapper)
            self._context = None
            _unhook()

    def transcribe(
        self,
        samples: Samples,
        how: Decoding,
        threads: int,
        stop: Callable[[], bool] = lambda: False,
        *,
        once: bool = False,
    ) -> list[Segment]:
        """Text of 16 kHz mono float32 samples in [-1, 1]; `how.language` is a code the model knows.

        `once`: a single encoder pass where that makes sense. Whisper takes a sentence that is cut off at the end of its
        window back, to hear it again with what follows; then `left_off` says where that is.

        Raises Aborted when `stop` (called often, from this thread; must not raise) said so, BatchError when
        whisper.cpp fails. Nothing is carried over from one call to the next.
        """
        if len(samples) == 0:
            return []
        samples = np.ascontiguousarray(samples, np.float32)
        self._windows, self._starts, self._owner, self.left_off = 0, {}, [], None
        stopped = False

        def asked_to_stop() -> bool:
            nonlocal stopped
            stopped = stopped or stop()
            return stopped

        def encoder_begins(_context: Any) -> bool:
            self._windows += 1
            if once and self._windows == 2:
                last = int(pw.whisper_full_n_segments(self._wrapper)) - 1
                reached = pw.whisper_full_get_segment_t1(self._wrapper, last) / 100 if last >= 0 else 0.0
                if reached >= LEAP:
                    self.left_off = reached
                    return False
            return not asked_to_stop()

        def segments_came(_context: Any, _new: int) -> None:
            self._look(threads)

        params = self._params(how, threads)
        params.set_new_segment_callback(segments_came)
        params.set_abort_callback(asked_to_stop)
        params.set_encoder_begin_callback(encoder_begins)
        _last_words.clear()
        self._forget()
        code = pw.whisper_full(self._wrapper, params, samples, len(samples))
        if stopped:
            raise Aborted
        if code != 0:
            why = _last_words[-1] if _last_words else "no reason given"
            raise BatchError(f"whisper.cpp failed with code {code} ({why}).")
        return self._segments(how)

    def _look(self, threads: int) -> None:
        """Keep what the model expects at the start of the current window: whether anybody speaks, and what language.

        Called while the encoder's view of the window is still there; the next window begins with a clean decoder.
        whisper.cpp's own no_speech_prob is none: it reads a row of logits that is left over from an earlier decode
        whenever the prompt has more than one token.
        """
        count = int(pw.whisper_full_n_segments(self._wrapper))
        self._owner += [self._windows] * (count - len(self._owner))
        if self._windows in self._starts:
            return
        start = ctypes.c_int32(self._sot)
        if library.whisper_decode(self._context, ctypes.byref(start), 1, 0, threads) == 0:
            logits = np.ctypeslib.as_array(library.whisper_get_logits(self._context), (self.n_vocab,))
            self._starts[self._windows] = _softmax(logits.astype(np.float64))
        self._forget()

    def _forget(self) -> None:
        """Clear the row that whisper.cpp takes for the window's, so that no job depends on the one before it."""
        if self._decoded:
            ctypes.memset(library.whisper_get_logits(self._context), 0, 4 * self.n_vocab)
        self._decoded = True

    def detect(self, samples: Samples, threads: int) -> dict[str, float]:
        """Probability of every language the model knows, from the first 30 seconds; highest first."""
        if not self.multilingual:
            return {"en": 1.0}
        samples = np.ascontiguousarray(samples[:WINDOW], np.float32)
        if library.whisper_pcm_to_mel(self._context, samples.ctypes.data, len(samples), threads) != 0:
            raise BatchError("whisper.cpp could not compute a spectrogram.")
        return self._detect_again(threads)

    def detected(self, threads: int) -> dict[str, float]:
        """The same for the samples of the latest `transcribe`; free when it found text in its first window."""
        if not self.multilingual:
            return {"en": 1.0}
        if 1 in self._starts:
            first = int(pw.whisper_token_lang(self._wrapper, 0))
            return self._ranked(self._starts[1][first : first + len(self.codes)])
        return self._detect_again(threads)

    def _detect_again(self, threads: int) -> dict[str, float]:
        weights = np.zeros(int(pw.whisper_lang_max_id()) + 1, np.float32)
        if library.whisper_lang_auto_detect(self._context, 0, threads, weights.ctypes.data) < 0:
            raise BatchError("whisper.cpp could not detect the language.")
        # whisper.cpp also asks for languages newer than the model, whose tokens mean something else in it
        return self._ranked(weights[: len(self.codes)].astype(np.float64))

    def _ranked(self, weights: NDArray[np.float64]) -> dict[str, float]:
        shares = weights / max(float(weights.sum()), 1e-30)
        return {self.codes[i]: float(shares[i]) for i in np.argsort(-shares, kind="stable")}

    def _params(self, how: Decoding, threads: int) -> Any:
        strategies = pw.whisper_sampling_strategy
        beams = how.beam_size > 1
        params = pw.whisper_full_default_params(
            strategies.WHISPER_SAMPLING_BEAM_SEARCH if beams else strategies.WHISPER_SAMPLING_GREEDY
        )
        params.print_progress = params.print_realtime = params.print_timestamps = params.print_special = False
        params.no_context = True
        params.n_threads = threads
        params.language = how.language if self.multilingual else "en"
        params.translate = how.translate and self.multilingual
        params.temperature, params.temperature_inc = how.temperature, how.temperature_inc
        params.greedy = {"best_of": how.best_of}
        params.beam_search = {"beam_size": how.beam_size, "patience": -1.0}
        if how.prompt:
            params.initial_prompt = prompt_end(how.prompt)
            params.carry_initial_prompt = how.carry_initial_prompt
        if how.max_context >= 0:
            params.n_max_text_ctx = how.max_context
        params.audio_ctx = how.audio_ctx
        params.thold_pt = how.word_thold
        params.entropy_thold, params.logprob_thold = how.entropy_thold, how.logprob_thold
        params.no_speech_thold = how.no_speech_thold
        params.suppress_nst = how.suppress_nst
        params.tdrz_enable = how.tinydiarize
        params.no_timestamps = how.no_timestamps
        params.token_timestamps = (how.token_timestamps or how.max_len > 0) and not how.no_timestamps
        params.max_len, params.split_on_word = how.max_len, how.split_on_word
        return params

    def _segments(self, how: Decoding) -> list[Segment]:
        found: list[Segment] = []
        silent = {window: float(start[self._nobody]) for window, start in self._starts.items()}
        cut = b""  # a character that whisper.cpp cut in two goes to the later segment
        count = int(pw.whisper_full_n_segments(self._wrapper))
        for i in range(count):
            raw = cut + pw.whisper_full_get_segment_text(self._wrapper, i)
            whole = len(raw) if i == count - 1 else whole_characters(raw)
            raw, cut = raw[:whole], raw[whole:]
            length = int(pw.whisper_full_n_tokens(self._wrapper, i))
            tokens = []
            for j in range(length):
                data = pw.whisper_full_get_token_data(self._wrapper, i, j)
                if data.id < self._eot:
                    text = pw.whisper_token_to_bytes(self._wrapper, data.id)
                    tokens.append(Token(data.id, text, data.t0 / 100, data.t1 / 100, data.p, data.plog, data.t_dtw))
            found.append(
                Segment(
                    start=pw.whisper_full_get_segment_t0(self._wrapper, i) / 100,
                    end=pw.whisper_full_get_segment_t1(self._wrapper, i) / 100,
                    text=raw.decode("utf-8", "replace"),
                    tokens=tuple(tokens),
                    avg_logprob=sum(t.plog for t in tokens) / max(1, length),
                    no_speech_prob=silent.get(self._owner[i] if i < len(self._owner) else 0, 0.0),
                    turn_next=bool(pw.whisper_full_get_segment_speaker_turn_next(self._wrapper, i)),
                )
            )
        return [s for i, s in enumerate(found) if not self._unsaid(i, found, how)]

    def _unsaid(self, at: int, found: list[Segment], how: Decoding) -> bool:
        """OpenAI's rule: nobody spoke in a window that the model takes for silent and whose text is unlikely."""
        if found[at].no_speech_prob <= how.no_speech_thold or at >= len(self._owner):
            return False
        same = [s for i, s in enumerate(found) if i < len(self._owner) and self._owner[i] == self._owner[at]]
        tokens = [token.plog for segment in same for token in segment.tokens]
        return sum(tokens) / max(1, len(tokens)) < how.logprob_thold


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = np.exp(logits - logits.max())
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def prompt_end(prompt: str) -> str:
    """What counts of a prompt. whisper.cpp's tokeniser reads it whole first, in cubic time and by recursion: a word of
    2,000 Chinese characters takes seconds, and one of 15,000 the process."""
    raw = prompt.encode("utf-8", "replace")
    if len(raw) <= PROMPT_BYTES:
        return prompt
    kept = raw[-PROMPT_BYTES:].decode("utf-8", "ignore")
    return kept[next((i for i, c in enumerate(kept[:64]) if c.isspace()), 0) :]


def whole_characters(raw: bytes) -> int:
    """Length of `raw` without a UTF-8 character that its end cuts off."""
    for back in range(1, min(4, len(raw)) + 1):
        byte = raw[-back]
        if byte & 0xC0 == 0x80:
            continue
        need = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return len(raw) if need <= back else len(raw) - back
    return len(raw)


def check(path: Path) -> None:
    """Raise ModelProblem for what is no whole ggml Whisper file: whisper.cpp loads a cut one without a word."""
    if not path.is_file():
        raise ModelProblem(f"{path} is not there: fetch the speech model or set stt.model to a ggml Whisper file.")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(48)
        if len(head) < 48 or struct.unpack_from("<I", head)[0] != _MAGIC:
            raise ModelProblem(f"{path} is not a ggml Whisper model (its first bytes are not those of one).")
        rows, columns = struct.unpack("<2i", file.read(8).ljust(8, b"\0"))
        file.seek(rows * columns * 4, 1)
        try:
            for _ in range(struct.unpack("<i", file.read(4))[0]):
                file.seek(struct.unpack("<i", file.read(4))[0], 1)
            while file.tell() < size:
                dims, name, kind = struct.unpack("<3i", file.read(12))
                shape = struct.unpack(f"<{dims}i", file.read(4 * dims))
                if kind not in _TYPES:
                    return  # a newer quantisation: whisper.cpp is to judge
                items, length = _TYPES[kind]
                file.seek(name + int(np.prod(shape, dtype=np.int64)) // items * length, 1)
        except struct.error:
            raise ModelProblem(f"{path} is cut short: fetch it again.") from None
        if file.tell() != size:
            raise ModelProblem(f"{path} is cut short: fetch it again.")
