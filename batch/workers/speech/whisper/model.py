"""A Whisper model in whisper.cpp: samples in, segments out. No jobs, no files, no JSON."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _pywhispercpp as pw
import numpy as np
from numpy.typing import NDArray

from batch.errors import BatchError, ModelProblem
from batch.media import language as languages
from batch.media.sound.samples import SAMPLE_RATE, Samples
from batch.workers.speech.whisper.alignment_heads import AlignmentHeads, alignment_heads
from batch.workers.speech.whisper.cross_attention import CrossAttention
from batch.workers.speech.whisper.decoding import DecodedSegment, Decoding, Token, prompt_end, whole_characters
from batch.workers.speech.whisper.ggml_file import check_ggml_file
from batch.workers.speech.whisper.library import (
    ContextParams,
    clear_log,
    hook_log,
    last_log_line,
    library,
    params_in_context,
    params_of,
    unhook_log,
    wrapped_value,
)

WINDOW_SAMPLES = 30 * SAMPLE_RATE
"""Samples that one encoder pass hears; anything shorter is padded and costs the same."""

LEAST_FIRST_WINDOW_S = 5.0
"""Seconds that a first window must have brought for the rest to be left to another call."""

LEAST_ALIGNED_S = 0.3
"""Seconds that a window's text and its sound must span to be aligned: whisper.cpp ends the process under 0.16."""

ALIGNMENT_BYTES = 256 << 20
"""Memory that whisper.cpp sets aside while it aligns a window; it uses what it needs, and ends the process without."""

_FIRST_LANGUAGE_TOKEN_VOCABULARY = 51_766
"""A multilingual vocabulary without its languages."""


class Aborted(Exception):
    """The call was stopped by its `stop`; what it had found is dropped."""


class WhisperModel:
    """One ggml model file, ready to transcribe. Everything but the constructor's facts belongs to one thread."""

    def __init__(self, path: Path, gpu: bool = False) -> None:
        """Raises ModelProblem with a sentence that names the file."""
        shape = check_ggml_file(path)
        hook_log()
        clear_log()
        heads = alignment_heads(shape.layers, shape.width, shape.vocabulary, path.name)
        self._wrapper = self._load(path, gpu, heads)
        value = wrapped_value(self._wrapper)
        # The value is one pointer, null when the file did not load: every bound call would then crash.
        self._context = ctypes.c_void_p.from_address(value).value if value else None
        if not self._context:
            reason = last_log_line("whisper.cpp does not say why")
            remedy = "fetch it again" + (", or set stt.gpu_layers to 0 if it is the GPU that fails" if gpu else "")
            raise ModelProblem(f"{path} could not be loaded as a Whisper model ({reason}): {remedy}.")
        self.attention = CrossAttention(self._context, self._params, path, shape.width, shape.layers)
        self.multilingual = bool(pw.whisper_is_multilingual(self._wrapper))
        self.n_vocab = int(pw.whisper_n_vocab(self._wrapper))
        language_count = self.n_vocab - _FIRST_LANGUAGE_TOKEN_VOCABULARY if self.multilingual else 1
        self.codes: tuple[str, ...] = languages.CODES[: max(1, min(language_count, len(languages.CODES)))]
        """Languages the model knows."""
        self.n_text_ctx = int(pw.whisper_n_text_ctx(self._wrapper))
        self.n_embd = int(pw.whisper_model_n_text_state(self._wrapper))
        self.size_name = str(pw.whisper_model_type_readable(self._wrapper))
        self.heads = heads if self._params is not None else None
        """What `Decoding.align` goes by; None where this model's attention cannot be read."""
        self.left_off: float | None = None
        """Where the latest call ended early, in seconds; None: it went to the end."""
        self._eot = int(pw.whisper_token_eot(self._wrapper))
        self._sot = int(pw.whisper_token_sot(self._wrapper))
        self._first_timestamp = int(pw.whisper_token_beg(self._wrapper))
        # <|nospeech|> stands before <|notimestamps|> in every model
        self._no_speech = int(pw.whisper_token_not(self._wrapper)) - 1
        self._has_decoded = False
        self._windows = 0  # encoder passes of the latest call
        self._start_probabilities: dict[int, NDArray[np.float64]] = {}  # of the first token, by window
        self._window_of_segment: list[int] = []

    def _load(self, path: Path, gpu: bool, heads: AlignmentHeads | None) -> Any:
        """pywhispercpp's wrapper of the loaded context, ready for attention weights where the model has such heads."""
        wrapped = pw.whisper_context_default_params()
        params = params_of(wrapped)
        wrapped.use_gpu = gpu
        self._params: ContextParams | None = None
        if heads is None or params is None:
            return pw.whisper_init_from_file_with_params(str(path), wrapped)
        params.flash_attn = False
        params.dtw_token_timestamps, params.dtw_aheads_preset, params.dtw_mem_size = True, heads.preset, ALIGNMENT_BYTES
        wrapper = pw.whisper_init_from_file_with_params(str(path), wrapped)
        value = wrapped_value(wrapper)
        if value and (context := ctypes.c_void_p.from_address(value).value):
            self._params = params_in_context(context, params)
        return wrapper

    def warm_up(self) -> None:
        """Compute a little of what every call computes, so that the first need not wait for a GPU's kernels to be loaded."""
        silence = np.zeros(SAMPLE_RATE, np.float32)
        start = ctypes.c_int32(self._sot)
        self.attention.prepare()
        failed = (
            library.whisper_pcm_to_mel(self._context, silence.ctypes.data, len(silence), 1)
            or library.whisper_encode(self._context, 0, 1)
            or library.whisper_decode(self._context, ctypes.byref(start), 1, 0, 1)
        )
        self._has_decoded = not failed
        if failed:
            reason = last_log_line("whisper.cpp does not say why")
            raise ModelProblem(f"the GPU cannot compute with this Whisper model ({reason}): set stt.gpu_layers to 0.")

    def close(self) -> None:
        """Free the model."""
        if self._context:
            pw.whisper_free(self._wrapper)
            self._context = None
            unhook_log()

    def transcribe(
        self,
        samples: Samples,
        decoding: Decoding,
        threads: int,
        stop: Callable[[], bool] = lambda: False,
        *,
        once: bool = False,
    ) -> list[DecodedSegment]:
        """Text of 16 kHz mono float32 samples in [-1, 1]; `decoding.language` is a code the model knows.

        `once`: a single encoder pass where that makes sense. Whisper takes a sentence that is cut off at the end of its
        window back, to hear it again with what follows; then `left_off` says where that is.

        Raises Aborted when `stop` (called often, from this thread; must not raise) said so, BatchError when
        whisper.cpp fails. Nothing is carried over from one call to the next.
        """
        if len(samples) == 0:
            return []
        samples = np.ascontiguousarray(samples, np.float32)
        self._windows, self._start_probabilities, self._window_of_segment, self.left_off = 0, {}, [], None
        is_stopped = False
        seconds = len(samples) / SAMPLE_RATE

        def should_stop() -> bool:
            nonlocal is_stopped
            is_stopped = is_stopped or stop()
            return is_stopped

        def encoder_begins(_context: Any) -> bool:
            self._windows += 1
            self.attention.align_window(False)
            if once and self._windows == 2:
                last = int(pw.whisper_full_n_segments(self._wrapper)) - 1
                reached = pw.whisper_full_get_segment_t1(self._wrapper, last) / 100 if last >= 0 else 0.0
                if reached >= LEAST_FIRST_WINDOW_S:
                    self.left_off = reached
                    return False
            return not should_stop()

        def segments_came(_context: Any, _new: int) -> None:
            self._look_at_start(threads)
            if align:
                # whisper.cpp aligns a window when all its segments are there; and aborts on one of a few frames
                last = int(pw.whisper_full_n_segments(self._wrapper)) - 1
                start = pw.whisper_full_get_segment_t0(self._wrapper, last) / 100
                end = pw.whisper_full_get_segment_t1(self._wrapper, last) / 100
                self.attention.align_window(min(end, seconds) - start >= LEAST_ALIGNED_S)

        # in a short context times are half a second off, and whisper.cpp ends the process where some of the sound is not in it
        align = decoding.align and self.heads is not None and not decoding.no_timestamps and decoding.audio_ctx == 0
        params = self._full_params(decoding, threads)
        params.set_new_segment_callback(segments_came)
        params.set_abort_callback(should_stop)
        params.set_encoder_begin_callback(encoder_begins)
        clear_log()
        with self.attention.of_call(decoding.audio_ctx, weights=align):
            self._clear_logits()
            code = pw.whisper_full(self._wrapper, params, samples, len(samples))
        if is_stopped:
            raise Aborted
        if code != 0:
            raise BatchError(f"whisper.cpp failed with code {code} ({last_log_line('no reason given')}).")
        return self._segments(decoding)

    def _look_at_start(self, threads: int) -> None:
        """Keep what the model expects at the start of the current window: whether anybody speaks, and what language.

        Called while the encoder's view of the window is still there; the next window begins with a clean decoder.
        whisper.cpp's own no_speech_prob is none: it reads a row of logits that is left over from an earlier decode
        whenever the prompt has more than one token.
        """
        count = int(pw.whisper_full_n_segments(self._wrapper))
        self._window_of_segment += [self._windows] * (count - len(self._window_of_segment))
        if self._windows in self._start_probabilities:
            return
        start = ctypes.c_int32(self._sot)
        if library.whisper_decode(self._context, ctypes.byref(start), 1, 0, threads) == 0:
            logits = np.ctypeslib.as_array(library.whisper_get_logits(self._context), (self.n_vocab,))
            self._start_probabilities[self._windows] = _softmax(logits.astype(np.float64))
        self._clear_logits()

    def _clear_logits(self) -> None:
        """Clear the row that whisper.cpp takes for the window's, so that no job depends on the one before it."""
        if self._has_decoded:
            ctypes.memset(library.whisper_get_logits(self._context), 0, 4 * self.n_vocab)
        self._has_decoded = True

    def detect_language(self, samples: Samples, threads: int) -> dict[str, float]:
        """Probability of every language the model knows, from the first 30 seconds; highest first."""
        if not self.multilingual:
            return {"en": 1.0}
        self._hear_whole_windows(threads)
        samples = np.ascontiguousarray(samples[:WINDOW_SAMPLES], np.float32)
        if library.whisper_pcm_to_mel(self._context, samples.ctypes.data, len(samples), threads) != 0:
            raise BatchError("whisper.cpp could not compute a spectrogram.")
        return self._detect_in_spectrogram(threads)

    def _hear_whole_windows(self, threads: int) -> None:
        """Have whisper.cpp forget the latest call's audio context, by a call that ends before its encoder."""
        if self.attention.positions:
            params = self._full_params(Decoding(), threads)
            params.set_encoder_begin_callback(lambda _context: False)
            silence = np.zeros(SAMPLE_RATE, np.float32)
            pw.whisper_full(self._wrapper, params, silence, len(silence))
            self.attention.positions = 0

    def transcribed_language(self, threads: int) -> dict[str, float]:
        """Probability of every language for the samples of the latest `transcribe`, highest first; costs nothing when
        that found text in its first window."""
        if not self.multilingual:
            return {"en": 1.0}
        if 1 in self._start_probabilities:
            first = int(pw.whisper_token_lang(self._wrapper, 0))
            return self._ranked(self._start_probabilities[1][first : first + len(self.codes)])
        return self._detect_in_spectrogram(threads)

    def _detect_in_spectrogram(self, threads: int) -> dict[str, float]:
        self.attention.prepare()
        weights = np.zeros(int(pw.whisper_lang_max_id()) + 1, np.float32)
        if library.whisper_lang_auto_detect(self._context, 0, threads, weights.ctypes.data) < 0:
            raise BatchError("whisper.cpp could not detect the language.")
        # whisper.cpp also asks for languages newer than the model, whose tokens mean something else in it
        return self._ranked(weights[: len(self.codes)].astype(np.float64))

    def _ranked(self, weights: NDArray[np.float64]) -> dict[str, float]:
        shares = weights / max(float(weights.sum()), 1e-30)
        return {self.codes[i]: float(shares[i]) for i in np.argsort(-shares, kind="stable")}

    def _full_params(self, decoding: Decoding, threads: int) -> Any:
        strategies = pw.whisper_sampling_strategy
        params = pw.whisper_full_default_params(
            strategies.WHISPER_SAMPLING_BEAM_SEARCH if decoding.beam_size > 1 else strategies.WHISPER_SAMPLING_GREEDY
        )
        params.print_progress = params.print_realtime = params.print_timestamps = params.print_special = False
        params.no_context = True
        params.n_threads = threads
        params.language = decoding.language if self.multilingual else "en"
        params.translate = decoding.translate and self.multilingual
        params.temperature, params.temperature_inc = decoding.temperature, decoding.temperature_inc
        params.greedy = {"best_of": decoding.best_of}
        params.beam_search = {"beam_size": decoding.beam_size, "patience": -1.0}
        if decoding.prompt:
            params.initial_prompt = prompt_end(decoding.prompt)
            params.carry_initial_prompt = decoding.carry_initial_prompt
        if decoding.max_context >= 0:
            params.n_max_text_ctx = decoding.max_context
        params.audio_ctx = decoding.audio_ctx
        params.entropy_thold, params.logprob_thold = decoding.entropy_thold, decoding.logprob_thold
        params.no_speech_thold = decoding.no_speech_thold
        params.suppress_nst = decoding.suppress_nst
        params.tdrz_enable = decoding.tinydiarize
        params.no_timestamps = decoding.no_timestamps
        return params

    def _segments(self, decoding: Decoding) -> list[DecodedSegment]:
        segments: list[DecodedSegment] = []
        silent = {window: float(start[self._no_speech]) for window, start in self._start_probabilities.items()}
        cut = b""  # a character that whisper.cpp cut in two goes to the later segment
        count = int(pw.whisper_full_n_segments(self._wrapper))
        window = seek = 0
        for i in range(count):
            start = int(pw.whisper_full_get_segment_t0(self._wrapper, i))
            if self._window_of(i) != window:
                window = self._window_of(i)
                seek = start - self._hundredths(pw.whisper_full_get_token_data(self._wrapper, i, 0).tid)
            raw = cut + pw.whisper_full_get_segment_text(self._wrapper, i)
            whole = len(raw) if i == count - 1 else whole_characters(raw)
            raw, cut = raw[:whole], raw[whole:]
            length = int(pw.whisper_full_n_tokens(self._wrapper, i))
            tokens = self._tokens(i, length, seek, decoding)
            segments.append(
                DecodedSegment(
                    start=start / 100,
                    end=pw.whisper_full_get_segment_t1(self._wrapper, i) / 100,
                    text=raw.decode("utf-8", "replace"),
                    tokens=tokens,
                    avg_logprob=sum(token.plog for token in tokens) / max(1, length),
                    no_speech_prob=silent.get(self._window_of(i), 0.0),
                    turn_next=bool(pw.whisper_full_get_segment_speaker_turn_next(self._wrapper, i)),
                )
            )
        return [segment for i, segment in enumerate(segments) if not self._is_silence(i, segments, decoding)]

    def _tokens(self, segment: int, length: int, seek: int, decoding: Decoding) -> tuple[Token, ...]:
        tokens = []
        for i in range(length):
            data = pw.whisper_full_get_token_data(self._wrapper, segment, i)
            if data.id < self._eot:
                has_hint = data.tid >= self._first_timestamp and data.pt > decoding.word_thold
                hint = (seek + self._hundredths(data.tid)) / 100 if has_hint else None
                end = data.t_dtw / 100 if data.t_dtw >= 0 else None
                text = pw.whisper_token_to_bytes(self._wrapper, data.id)
                tokens.append(Token(data.id, text, hint, float(data.pt), end, data.p, data.plog))
        return tuple(tokens)

    def _hundredths(self, timestamp_token: int) -> int:
        """Hundredths of a second since the start of its window that a time stamp says."""
        return max(0, 2 * (timestamp_token - self._first_timestamp))

    def _window_of(self, segment: int) -> int:
        return self._window_of_segment[segment] if segment < len(self._window_of_segment) else 0

    def _is_silence(self, at: int, segments: list[DecodedSegment], decoding: Decoding) -> bool:
        """OpenAI's rule: nobody spoke in a window that the model takes for silent and whose text is unlikely."""
        window = self._window_of(at)
        if segments[at].no_speech_prob <= decoding.no_speech_thold or not window:
            return False
        tokens = [token for i, s in enumerate(segments) if self._window_of(i) == window for token in s.tokens]
        return sum(token.plog for token in tokens) / max(1, len(tokens)) < decoding.logprob_thold


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = np.exp(logits - logits.max())
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares
