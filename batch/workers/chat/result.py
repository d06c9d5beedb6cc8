"""What choices came to, and the ChatResult that they add up to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Outcome:
    """What one choice came to."""

    choice: dict[str, Any]
    cached: int
    prompt_n: int
    prompt_ms: float
    predicted_n: int
    predicted_ms: float
    thinking_n: int
    note: str = ""

    @property
    def timings(self) -> dict[str, Any]:
        return timings(self.cached, self.prompt_n, self.prompt_ms, self.predicted_n, self.predicted_ms)


def timings(cached: int, prompt_n: int, prompt_ms: float, n: int, ms: float) -> dict[str, Any]:
    """llama-server's timings object; the first token comes with the prompt, so steps are one fewer than tokens."""
    steps = max(n - 1, 0)
    return {
        "cache_n": cached,
        "prompt_n": prompt_n,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": prompt_ms / prompt_n if prompt_n else 0.0,
        "prompt_per_second": 1e3 * prompt_n / prompt_ms if prompt_ms > 0 else 0.0,
        "predicted_n": n,
        "predicted_ms": ms,
        "predicted_per_token_ms": ms / steps if steps else 0.0,
        "predicted_per_second": 1e3 * steps / ms if ms > 0 else 0.0,
    }


@dataclass(slots=True)
class Total:
    """Choices of one job, added up."""

    outcomes: list[Outcome] = field(default_factory=list)

    def result(self, prompt_tokens: int) -> dict[str, Any]:
        """A ChatResult."""
        first = self.outcomes[0]
        completion = sum(o.predicted_n for o in self.outcomes)
        made: dict[str, Any] = {
            "choices": [o.choice for o in self.outcomes],
            "usage": {
                "completion_tokens": completion,
                "prompt_tokens": prompt_tokens,
                "total_tokens": prompt_tokens + completion,
                "prompt_tokens_details": {"cached_tokens": first.cached},
                "completion_tokens_details": {"reasoning_tokens": sum(o.thinking_n for o in self.outcomes)},
            },
            "timings": timings(
                first.cached, first.prompt_n, first.prompt_ms, completion, sum(o.predicted_ms for o in self.outcomes)
            ),
        }
        notes = list(dict.fromkeys(o.note for o in self.outcomes if o.note))
        if notes:
            made["note"] = "; ".join(notes)
        return made
