"""Measures what the chat model takes and what is free, for the plan of how to load it.

`python -m batch.workers.chat.memory_planner`, settings on standard input, prints the plan for `batch doctor`.
"""

from __future__ import annotations

import contextlib
import sys
from functools import lru_cache, partial
from pathlib import Path

import msgspec

from batch.catalog.resolved import Resolved, configured, resolve
from batch.errors import BatchError
from batch.memory.machine import machine_memory, sibling_bytes
from batch.memory.plan import Budget, MemoryPlan, ModelParts, PlanAnswer, choose
from batch.memory.sizes import GPU_PROCESS_BYTES, ContextSizes, KvType
from batch.memory.text_length import EMBEDDING_PROCESS_BYTES
from batch.queue.jobs import Kind
from batch.settings import Settings
from batch.workers.chat.bulk.speed import (
    CLIENT_SEQUENCES,
    GPU_WIDTHS,
    MAX_SHARED_WIDTH,
    MIN_OWN_GPU_WIDTH,
    WIDTHS,
    bulk_tokens,
    own_rooms,
    sequences_for,
)
from batch.workers.llama.devices import gpu_free_bytes
from batch.workers.llama.dry_run import DryRun, weight_sizes
from batch.workers.llama.library import lib

N_BATCH_TOKENS = 2048
N_UBATCH_TOKENS = 512
"""Tokens that are computed together where no picture demands more: more only make every sliding window larger."""
MIN_IMAGE_CACHE_BYTES = 64 << 20
SMALL_MODEL_BYTES = 1_000_000_000
"""Where the weights are larger, a step takes so long to read them that it hardly matters what bulk jobs pass over of each
other's keys and values."""
OWN_KV_SHARE, OWN_KV_GPU_SHARE = 0.2, 0.25
"""Keys and values of each bulk job's own take at most so much of the free memory, or of the GPU's."""
SPARE_BYTES = 300_000_000
"""What is left to the service and the system."""
OTHERS_SHARE = 1.3
"""What another model takes, by its file."""


def plan_memory(settings: Settings, resolved: Resolved, budget: Budget) -> MemoryPlan:
    """The plan for a chat model; raises ModelProblem where nothing would make it fit."""
    vlm = settings.vlm
    has_gpu = budget.gpu_free is not None
    weights = weight_sizes(resolved.path)
    most_own_kv = OWN_KV_SHARE * budget.free if budget.gpu_free is None else OWN_KV_GPU_SHARE * budget.gpu_free
    run = DryRun(resolved.path, gpu_layers=vlm.gpu_layers)
    try:
        layers, n_ctx = run.layers + 1, vlm.context or run.n_ctx_train
        gpu_share = (1.0 if vlm.gpu_layers < 0 else min(1.0, vlm.gpu_layers / layers)) if has_gpu else 0.0
        # A CPU that computes some layers keeps their cells, and is as slow there as without a GPU.
        rooms = own_rooms(n_ctx, has_gpu=gpu_share == 1.0)
        parts = ModelParts(
            name=resolved.name,
            weights=weights if run.reorders_weights else msgspec.structs.replace(weights, repacked=0),
            projector=resolved.mmproj.stat().st_size if resolved.mmproj and resolved.mmproj.is_file() else 0,
            caches=vlm.cache_bytes + (max(vlm.cache_bytes // 4, MIN_IMAGE_CACHE_BYTES) if resolved.mmproj else 0),
            gpu_share=gpu_share,
        )

        make = lru_cache(partial(run.context_sizes, n_batch=N_BATCH_TOKENS, n_ubatch=N_UBATCH_TOKENS))

        def sizes(kv_type: KvType, width: int, *, own_tokens: int = 0) -> ContextSizes | None:
            """Of both contexts: the clients', and that of bulk jobs where some are computed together."""
            clients = make(n_ctx=vlm.context, sequences=CLIENT_SEQUENCES, kv_type=kv_type)
            if clients is None or width == 1:
                return clients
            tokens = bulk_tokens(n_ctx, width, own_tokens=own_tokens)
            bulk = make(n_ctx=tokens, sequences=sequences_for(width), kv_type=kv_type, own_kv=own_tokens > 0)
            return None if bulk is None or (own_tokens and bulk.kv > most_own_kv) else clients + bulk

        tried = GPU_WIDTHS if has_gpu else WIDTHS
        widths = sorted(tried, reverse=True) if vlm.parallel == "auto" else [vlm.parallel]
        shared = [n for n in widths if n <= MAX_SHARED_WIDTH] or widths
        # Whether prompts share decodes with tokens on a CPU, where no cells are own ones then, is measured once the model is
        # loaded: for small models of which that is so, more is counted than they take.
        may_be_own = (has_gpu or weights.total <= SMALL_MODEL_BYTES) and not run.is_recurrent
        least = MIN_OWN_GPU_WIDTH if has_gpu and len(widths) > 1 else 2
        return choose(
            parts,
            sizes,
            budget,
            kv_types=("f16", "q8_0") if vlm.kv_cache == "auto" else (vlm.kv_cache,),
            repacks={"auto": (True, False), "on": (True,), "off": (False,)}[vlm.repack],
            widths=shared,
            own_widths=[n for n in widths if n >= least] if may_be_own else (),
            own_rooms=rooms,
        )
    finally:
        run.close()


def budget_now(settings: Settings, *, has_gpu: bool) -> Budget:
    """What is free for the chat model at this moment: what the other models will still take is not."""
    memory = machine_memory()
    gpu_free = _gpu_budget(settings) if has_gpu else None
    if memory is None:
        return Budget(sys.maxsize, 0, gpu_free)
    reserved = SPARE_BYTES + max(0, others_bytes(settings) - sibling_bytes())
    return Budget(max(0, memory.free - reserved), memory.swap, gpu_free)


def _gpu_budget(settings: Settings) -> int:
    """Of the GPU: whether the others have loaded theirs cannot be told there, so that it is left free in any case."""
    return max(0, gpu_free_bytes() - others_bytes(settings, on_gpu=True))


def others_bytes(settings: Settings, *, on_gpu: bool = False) -> int:
    """About what the models of sound and of vectors take; `on_gpu`: those that may use one."""
    files = beside = 0
    for kind in (Kind.EMBEDDING, Kind.STT):
        if on_gpu and settings.model_of(kind).gpu_layers == 0:
            continue
        entry = configured(settings, kind)
        if entry is not None:
            size = entry.files[0].bytes
        else:
            size = 0
            with contextlib.suppress(OSError):  # it is not there, or is a name of an engine without weights
                size = Path(settings.model_of(kind).model).stat().st_size
        files += size
        if size:
            beside += GPU_PROCESS_BYTES if on_gpu else EMBEDDING_PROCESS_BYTES if kind is Kind.EMBEDDING else 0
    return int(OTHERS_SHARE * files) + beside


def main() -> int:
    """Plan for a machine with nothing else on it, and print the plan or what is wrong, as JSON."""
    settings = Settings.model_validate_json(sys.stdin.read())
    has_gpu = bool(lib.llama_supports_gpu_offload()) and settings.vlm.gpu_layers != 0
    memory = machine_memory()
    free = sys.maxsize if memory is None else max(0, memory.total - SPARE_BYTES - others_bytes(settings))
    budget = Budget(free, memory.swap if memory else 0, _gpu_budget(settings) if has_gpu else None)
    try:
        answer = PlanAnswer(plan=plan_memory(settings, resolve(settings, Kind.VLM), budget))
    except BatchError as problem:
        answer = PlanAnswer(problem=problem.message)
    print(msgspec.json.encode(answer).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
