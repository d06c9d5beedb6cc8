"""An engine without weights: the whole path in milliseconds, for tests of the path. It knows nothing and says so."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain

from batch.errors import BadRequest, NotSupported
from batch.payloads.chat import (
    AssistantMessage,
    ChatChoice,
    ChatPayload,
    ChatResult,
    CompletionPayload,
    FinishReason,
    GenerationParams,
    ImagePart,
    Message,
    MessageDelta,
    Timings,
    Usage,
)
from batch.payloads.embedding import EmbeddingPayload, EmbeddingResult
from batch.payloads.events import Delta
from batch.payloads.job_payload import Result
from batch.payloads.model_info import AnyModelInfo, ChatModelInfo, EmbeddingModelInfo, SpeechModelInfo
from batch.payloads.questions import Answer, CountTokens, EngineMetrics, Question, ReadEngineMetrics, TokenCount
from batch.payloads.speech import TranscriptionPayload, TranscriptionResult, TranscriptSegment
from batch.queue.jobs import Kind
from batch.queue.remote.prompt_prefix import MAX_HELD_PREFIXES, HeldPrefixes, ends_of, prefixes_of
from batch.workers.engine import Work


class WeightlessEngine:
    """Chat repeats the last message word by word, embedding hashes, speech tells the file's size.

    A generation's "seed" is milliseconds a word; the first word "crash" takes the process down, "hang" never
    reaches a step again, "refuse" is an error.
    """

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self.has_short_steps = kind is Kind.EMBEDDING
        self._stop = threading.Event()
        self._prompts: deque[list[str]] | None = None

    def load(self, report: Callable[[float], None]) -> AnyModelInfo:
        report(1.0)
        match self._kind:
            case Kind.VLM:
                return ChatModelInfo(model="weightless", n_ctx=4096, n_embd=8, vision=True)
            case Kind.EMBEDDING:
                return EmbeddingModelInfo(model="weightless", n_ctx=4096, n_embd=8)
            case Kind.STT:
                return SpeechModelInfo(model="weightless", n_ctx=4096, n_embd=8)

    def run(self, work: Work) -> Result:
        self._stop.clear()
        match work.payload:
            case ChatPayload() as payload:
                if self._prompts is not None:
                    self._prompts.appendleft(ends_of(prefixes_of(payload)))
                return self._generate(work, _last_words(work, payload.messages), payload.generation, is_chat=True)
            case CompletionPayload() as payload:
                prompt = payload.prompt
                words = prompt if isinstance(prompt, str) else " ".join(map(str, prompt))
                return self._generate(work, words, payload.generation, is_chat=False)
            case EmbeddingPayload() as payload:
                return self._embed(work, payload)
            case TranscriptionPayload() as payload:
                text = f" a file of {work.spool_path(payload.blob).stat().st_size} bytes\n"
                segment = TranscriptSegment(
                    id=0,
                    start=0.0,
                    end=1.0,
                    text=text,
                    temperature=0.0,
                    avg_logprob=0.0,
                    compression_ratio=1.0,
                    no_speech_prob=0.0,
                    words=[],
                )
                return TranscriptionResult(
                    text=text, language="en", language_name="english", duration=1.0, segments=[segment], ms=0.0
                )

    def _generate(self, work: Work, content: str, generation: GenerationParams, *, is_chat: bool) -> ChatResult:
        words = content.split()
        match words[:1]:
            case ["crash"]:
                os._exit(139)
            case ["hang"]:
                threading.Event().wait()
            case ["refuse"]:
                raise BadRequest("The message asks to be refused.")
        pause, limit = (generation.seed or 0) / 1000, generation.max_tokens or 1 << 30
        started = time.monotonic()
        for done, word in enumerate(words[:limit]):
            work.yield_point(done, len(words))
            if pause and self._stop.wait(pause):
                work.yield_point()
            if work.is_watched:
                piece = f"{word} "
                work.emit(Delta(delta=MessageDelta(content=piece) if is_chat else MessageDelta(text=piece)))
        text = "".join(f"{word} " for word in words[:limit])
        finish: FinishReason = "length" if len(words) > limit else "stop"
        work.emit(Delta(finish_reason=finish))
        message = AssistantMessage(content=text) if is_chat else None
        return ChatResult(
            choices=[ChatChoice(message=message, text=None if is_chat else text, finish_reason=finish)],
            usage=Usage(prompt_tokens=len(words), completion_tokens=len(words), total_tokens=2 * len(words)),
            timings=Timings(
                cache_n=0,
                prompt_n=len(words),
                prompt_ms=0.0,
                predicted_n=len(words),
                predicted_ms=(time.monotonic() - started) * 1000,
            ),
        )

    def _embed(self, work: Work, payload: EmbeddingPayload) -> EmbeddingResult:
        inputs = payload.inputs or []
        if payload.blob is not None:
            inputs = json.loads(work.spool_path(payload.blob).read_bytes())
        vectors = b""
        for done, text in enumerate(inputs):
            work.yield_point(done, len(inputs), "texts")
            digest = hashlib.sha256(str(text).encode()).digest()[:8]
            norm = sum(b * b for b in digest) ** 0.5 or 1.0
            vectors += struct.pack("<8f", *(b / norm for b in digest))
        return EmbeddingResult(
            count=len(inputs),
            dimensions=8,
            vectors=base64.b64encode(vectors).decode(),
            tokens=[len(str(text).split()) for text in inputs],
            ms=0.0,
        )

    def ask(self, question: Question) -> Answer:
        match question:
            case CountTokens():
                return TokenCount(tokens=len(str(question.payload).split()), n_ctx=4096)
            case ReadEngineMetrics():
                return EngineMetrics()
        raise NotSupported(f"The engine without weights cannot answer {type(question).__name__}.")

    def follow_prefixes(self) -> Callable[[], HeldPrefixes] | None:
        """It has no prompt cache: it claims to hold its last chats, and that a KiB of prompt is worth a minute."""
        if self._kind is not Kind.VLM:
            return None
        prompts = self._prompts = deque(maxlen=MAX_HELD_PREFIXES // 8)
        return lambda: HeldPrefixes(60_000.0, list(dict.fromkeys(chain.from_iterable(prompts.copy()))))

    def settle(self) -> bool:
        """Nothing can be done ahead."""
        return False

    def interrupt(self) -> None:
        self._stop.set()

    def close(self) -> None:
        pass


def _last_words(work: Work, messages: Sequence[Message]) -> str:
    """The last message as text, its pictures looked up in the spool."""
    content = messages[-1].content if messages else None
    if not isinstance(content, list):
        return content or ""
    for part in content:
        if isinstance(part, ImagePart):
            work.spool_path(part.blob)
    return " ".join("a picture" if isinstance(part, ImagePart) else part.text for part in content)
