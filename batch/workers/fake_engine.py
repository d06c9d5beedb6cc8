"""An engine without weights: the whole path in milliseconds, for tests of the path. It knows nothing and says so."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from batch.errors import BadRequest
from batch.queue.jobs import Kind
from batch.workers.engine import Work


class WeightlessEngine:
    """Chat repeats the last message word by word, embedding hashes, speech tells the file's size.

    A generation's "seed" is milliseconds a word; the first word "crash" takes the process down, "hang" never
    reaches a unit again, "refuse" is an error.
    """

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self.brief = kind is Kind.EMBEDDING
        self._stop = threading.Event()

    def load(self, report: Callable[[float], None]) -> Mapping[str, Any]:
        report(1.0)
        return {"model": "weightless", "n_ctx": 4096, "n_embd": 8}

    def run(self, work: Work) -> Mapping[str, Any]:
        self._stop.clear()
        match self._kind:
            case Kind.VLM:
                return self._chat(work)
            case Kind.EMBEDDING:
                return self._embed(work)
            case Kind.STT:
                size = work.blob(work.request["blob"]).stat().st_size
                text = f" a file of {size} bytes\n"
                segment = {
                    "id": 0,
                    "seek": 0,
                    "start": 0.0,
                    "end": 1.0,
                    "text": text,
                    "tokens": [],
                    "temperature": 0.0,
                    "avg_logprob": 0.0,
                    "compression_ratio": 1.0,
                    "no_speech_prob": 0.0,
                    "words": [],
                }
                return {
                    "text": text,
                    "language": "en",
                    "language_name": "english",
                    "duration": 1.0,
                    "segments": [segment],
                    "ms": 0.0,
                }

    def _chat(self, work: Work) -> Mapping[str, Any]:
        content = (
            (work.request["messages"] or [{}])[-1].get("content") if "messages" in work.request else work.request["prompt"]
        )
        if isinstance(content, list):
            for part in content:
                if isinstance(part, dict) and part.get("type") == "image":
                    work.blob(part["blob"])
            content = " ".join(p.get("text", "a picture") if isinstance(p, dict) else str(p) for p in content)
        words = str(content).split()
        if words and words[0] == "crash":
            import os

            os._exit(139)
        if words and words[0] == "hang":
            threading.Event().wait()
        if words and words[0] == "refuse":
            raise BadRequest("The message asks to be refused.")
        generation = work.request.get("generation") or {}
        pause, most = (generation.get("seed") or 0) / 1000, generation.get("max_tokens") or 1 << 30
        begun = time.monotonic()
        for done, word in enumerate(words[:most]):
            work.unit(done, len(words))
            if pause and self._stop.wait(pause):
                work.unit()
            work.emit({"type": "delta", "index": 0, "delta": {"content": f"{word} "}})
        text = "".join(f"{w} " for w in words[:most])
        ms = (time.monotonic() - begun) * 1000
        finish = "length" if len(words) > most else "stop"
        work.emit({"type": "delta", "index": 0, "delta": {}, "finish_reason": finish})
        return {
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
            "usage": {
                "prompt_tokens": len(words),
                "completion_tokens": len(words),
                "total_tokens": 2 * len(words),
                "prompt_tokens_details": {"cached_tokens": 0},
            },
            "timings": {
                "cache_n": 0,
                "prompt_n": len(words),
                "prompt_ms": 0.0,
                "predicted_n": len(words),
                "predicted_ms": ms,
            },
        }

    def _embed(self, work: Work) -> Mapping[str, Any]:
        request = work.request
        inputs = json.loads(work.blob(request["blob"]).read_bytes()) if "blob" in request else request["inputs"]
        vectors = b""
        for done, text in enumerate(inputs):
            work.unit(done, len(inputs), "texts")
            digest = hashlib.sha256(str(text).encode()).digest()[:8]
            norm = sum(b * b for b in digest) ** 0.5 or 1.0
            vectors += struct.pack("<8f", *(b / norm for b in digest))
        return {
            "count": len(inputs),
            "dimensions": 8,
            "vectors": base64.b64encode(vectors).decode(),
            "tokens": [len(str(t).split()) for t in inputs],
            "ms": 0.0,
        }

    def ask(self, question: str, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        if question == "count":
            return {"tokens": len(str(payload).split()), "n_ctx": 4096}
        raise BadRequest(f"The engine without weights cannot answer {question}.")

    def interrupt(self) -> None:
        self._stop.set()

    def close(self) -> None:
        pass
