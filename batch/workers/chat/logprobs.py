"""Log probabilities of drawn tokens before sampling, over the whole vocabulary, in OpenAI's shape."""

from __future__ import annotations

from typing import Any

import numpy as np

from batch.workers.llama.model import Model

_LOWEST = -3.4028234663852886e38
"""llama-server's word for minus infinity, which JSON does not have."""


def entry(model: Model, logits: np.ndarray[Any, np.dtype[np.float32]], token: int, top: int) -> dict[str, Any]:
    """One item of logprobs.content: the token, and the `top` most likely ones. `logits` is (n_vocab,)."""
    peak = float(logits.max())
    total = peak + float(np.log(np.exp(logits - peak, dtype=np.float64).sum()))
    made = _item(model, token, float(logits[token]) - total)
    best: list[dict[str, Any]] = []
    if top > 0:
        ids = np.argpartition(logits, -top)[-top:] if top < len(logits) else np.arange(len(logits))
        ids = ids[np.argsort(-logits[ids], kind="stable")]
        best = [_item(model, int(t), float(logits[t]) - total) for t in ids]
    return {**made, "top_logprobs": best}


def _item(model: Model, token: int, logprob: float) -> dict[str, Any]:
    piece = model.piece(token)
    return {
        "id": token,
        "token": piece.decode("utf-8", "ignore"),
        "bytes": list(piece),
        "logprob": max(logprob, _LOWEST),
    }
