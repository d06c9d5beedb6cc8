"""What a choice came to, and the ChatResult that a job's choices add up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batch.payloads.chat import (
    ChatChoice,
    ChatResult,
    CompletionTokensDetails,
    PromptTokensDetails,
    Timings,
    Usage,
)

MAX_UNENFORCED = 5
"""Of a schema's keywords that no grammar can follow, so many are named in the note."""


@dataclass(frozen=True, slots=True)
class ChoiceResult:
    """What one choice came to."""

    choice: ChatChoice
    timings: Timings
    thinking_n: int
    """Tokens spent on thinking."""
    note: str = ""


def make_timings(cached_n: int, prompt_n: int, prompt_ms: float, predicted_n: int, predicted_ms: float) -> Timings:
    """llama-server's timings; the first token comes with the prompt, so steps are one fewer than tokens."""
    steps = max(predicted_n - 1, 0)
    return Timings(
        cache_n=cached_n,
        prompt_n=prompt_n,
        prompt_ms=prompt_ms,
        prompt_per_token_ms=prompt_ms / prompt_n if prompt_n else 0.0,
        prompt_per_second=1e3 * prompt_n / prompt_ms if prompt_ms > 0 else 0.0,
        predicted_n=predicted_n,
        predicted_ms=predicted_ms,
        predicted_per_token_ms=predicted_ms / steps if steps else 0.0,
        predicted_per_second=1e3 * steps / predicted_ms if predicted_ms > 0 else 0.0,
    )


def make_chat_result(
    results: Sequence[ChoiceResult], prompt_tokens: int, prompt: str | None = None, unenforced: Sequence[str] = ()
) -> ChatResult:
    """The result of a job with these choices; the prompt counts once.

    `prompt`: its text, where that was asked for. `unenforced`: what functions that are not strict ask for in vain.
    """
    first = results[0].timings
    completion = sum(r.timings.predicted_n for r in results)
    notes = dict.fromkeys(r.note for r in results if r.note)
    if unenforced:
        more = f" and {len(unenforced) - MAX_UNENFORCED} more" if len(unenforced) > MAX_UNENFORCED else ""
        notes[f"not enforced, as the function is not strict: {', '.join(unenforced[:MAX_UNENFORCED])}{more}"] = None
    return ChatResult(
        choices=[r.choice for r in results],
        usage=Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion,
            total_tokens=prompt_tokens + completion,
            prompt_tokens_details=PromptTokensDetails(first.cache_n),
            completion_tokens_details=CompletionTokensDetails(sum(r.thinking_n for r in results)),
        ),
        timings=make_timings(
            first.cache_n, first.prompt_n, first.prompt_ms, completion, sum(r.timings.predicted_ms for r in results)
        ),
        prompt=prompt,
        note="; ".join(notes) or None,
    )
