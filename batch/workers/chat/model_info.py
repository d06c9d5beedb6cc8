"""What the service tells of a chat model once it is loaded."""

from __future__ import annotations

from batch.catalog.resolved import Resolved
from batch.memory.plan import MemoryPlan
from batch.payloads.model_info import ChatModelInfo
from batch.payloads.sampling import SamplingParams
from batch.workers.chat.bulk.speed import BulkSpeed
from batch.workers.llama.library import lib
from batch.workers.llama.model import Model


def chat_model_info(
    resolved: Resolved,
    model: Model,
    *,
    n_ctx: int,
    plan: MemoryPlan,
    speed: BulkSpeed,
    sampling: SamplingParams,
    dialect: str,
    can_see: bool,
    has_gpu: bool,
) -> ChatModelInfo:
    """The model's own facts, and how it was loaded; `sampling`: what holds where a request says nothing."""
    source = model.chat_template()
    return ChatModelInfo(
        model=resolved.name,
        path=str(resolved.path),
        mmproj=str(resolved.mmproj) if resolved.mmproj else None,
        size=model.size,
        n_ctx=n_ctx,
        n_ctx_train=model.n_ctx_train,
        n_vocab=model.n_vocab,
        n_params=model.n_params,
        n_embd=model.n_embd,
        vocab_type=int(lib.llama_vocab_type(model.vocab)),
        ftype=model.description(),
        vision=can_see,
        chat=source is not None,
        dialect=dialect,
        chat_template=source or "",
        bos_token=model.token_text(model.bos),
        eos_token=model.token_text(model.eos),
        sampling=sampling,
        build=lib.llama_print_system_info().decode("utf-8", "replace").strip(),
        gpu=has_gpu,
        parallel=speed.width,
        parallel_rates=dict(speed.rates),
        kv_cache=plan.kv_type,
        repacked=plan.repack,
        note=plan.note,
    )
