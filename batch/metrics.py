"""Counts and times of one port's jobs, as Prometheus reads them: llama-server's names, and what a queue adds."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from batch.payloads.chat import ChatResult, Timings, Usage
from batch.payloads.embedding import EmbeddingResult
from batch.payloads.job_payload import Result
from batch.payloads.questions import EngineMetrics
from batch.payloads.speech import TranscriptionResult

disable_created_metrics()  # type: ignore[no-untyped-call]  # llama-server's page has none

_WAITS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_WINDOW = 16
"""Ended jobs that the throughput gauges look back on."""


class Metrics:
    """One registry a port. `ended` takes one ended job, `page` gives the text."""

    def __init__(self, kind: str) -> None:
        self.registry = CollectorRegistry()
        options: dict[str, Any] = {"registry": self.registry}
        self.prompt_tokens = Counter(
            "llamacpp:prompt_tokens", "Number of prompt tokens processed, excluding cached tokens", **options
        )
        self.cached_tokens = Counter(
            "llamacpp:prompt_tokens_cached", "Number of prompt tokens reused from the cache", **options
        )
        self.prompt_seconds = Counter("llamacpp:prompt_seconds", "Total time spent processing prompts", **options)
        self.predicted = Counter("llamacpp:tokens_predicted", "Number of generation tokens processed", **options)
        self.predicted_seconds = Counter("llamacpp:tokens_predicted_seconds", "Total time spent generating tokens", **options)
        self.decodes = Counter("llamacpp:n_decode", "Total number of llama_decode() calls, at least", **options)
        self.longest = Gauge("llamacpp:n_tokens_max", "Largest observed sequence length (prompt + generation)", **options)
        self.prompt_speed = Gauge("llamacpp:prompt_tokens_seconds", "Average prompt throughput in tokens/s", **options)
        self.predicted_speed = Gauge(
            "llamacpp:predicted_tokens_seconds", "Average generation throughput in tokens/s", **options
        )
        self.processing = Gauge("llamacpp:requests_processing", "Number of requests processing", **options)
        self.deferred = Gauge("llamacpp:requests_deferred", "Number of requests deferred", **options)
        self.loaded = Gauge("batch:model_ready", "1 when the model is loaded", **options)
        self.workers = Gauge("batch:workers_ready", "Workers of all machines whose model is loaded", **options)
        self.jobs = Counter("batch:jobs", "Ended jobs", ["kind", "origin", "state"], **options)
        self.wait = Histogram(
            "batch:queue_wait_seconds", "Time from acceptance to a worker", ["kind"], buckets=_WAITS, **options
        )
        self.latency = Histogram("batch:job_seconds", "Time from acceptance to the end", ["kind"], buckets=_WAITS, **options)
        self.sound = Counter("batch:sound_seconds", "Seconds of sound transcribed", **options)
        self.vectors = Counter("batch:vectors", "Vectors made", **options)
        self.engine = {
            name: Gauge(f"batch:{name}", text, **options)
            for name, text in (
                ("cache_bytes", "Host memory that cached conversations take"),
                ("cache_conversations", "Conversations cached in host memory"),
                ("image_encodes", "Pictures encoded since the worker started; a known one is not encoded again"),
            )
            if kind == "vlm"
        }
        self._kind = kind
        # A label's value is found under a lock, and checked: each is asked for once.
        self._jobs_labelled = functools.cache(self.jobs.labels)
        self._wait_labelled = functools.cache(self.wait.labels)
        self._latency_labelled = functools.cache(self.latency.labels)
        self._most = 0
        self._recent: list[Timings] = []

    def ended(self, state: str, origin: str, *, wait: float | None, latency: float | None, result: Result | None) -> None:
        """Count one job that has ended; times in seconds."""
        self._jobs_labelled(self._kind, origin, state).inc()
        if wait is not None:
            self._wait_labelled(self._kind).observe(max(0.0, wait))
        if latency is not None:
            self._latency_labelled(self._kind).observe(max(0.0, latency))
        match result:
            case ChatResult(timings=Timings() as timings):
                self._count_tokens(timings, result.usage)
            case EmbeddingResult():
                self.vectors.inc(result.count)
            case TranscriptionResult():
                self.sound.inc(result.duration)

    def _count_tokens(self, timings: Timings, usage: Usage) -> None:
        self.prompt_tokens.inc(timings.prompt_n)
        self.cached_tokens.inc(timings.cache_n)
        self.prompt_seconds.inc(timings.prompt_ms / 1000)
        self.predicted.inc(timings.predicted_n)
        self.predicted_seconds.inc(timings.predicted_ms / 1000)
        self.decodes.inc(timings.predicted_n)
        self._most = max(self._most, usage.total_tokens)
        self.longest.set(self._most)
        self._recent = [*self._recent, timings][-_WINDOW:]
        self.prompt_speed.set(_per_second((t.prompt_n, t.prompt_ms) for t in self._recent))
        self.predicted_speed.set(_per_second((t.predicted_n, t.predicted_ms) for t in self._recent))

    def page(self, *, processing: int, deferred: int, workers: int, engine: EngineMetrics) -> bytes:
        """The text format, with what stands in the queue now and what the worker's engine tells of itself."""
        for name, gauge in self.engine.items():
            gauge.set(getattr(engine, name))
        self.processing.set(processing)
        self.deferred.set(deferred)
        self.loaded.set(1 if workers else 0)
        self.workers.set(workers)
        return generate_latest(self.registry)


def _per_second(spans: Iterable[tuple[int, float]]) -> float:
    """The rate of several (count, milliseconds) together; 0 for no time at all."""
    pairs = list(spans)
    spent_s = sum(ms for _, ms in pairs) / 1000
    return sum(count for count, _ in pairs) / spent_s if spent_s else 0.0
