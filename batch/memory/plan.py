"""How a chat model is loaded so that it fits: what its context is kept in, how many bulk jobs run together, whether weights are
repacked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from batch.errors import ModelProblem
from batch.memory.sizes import ContextSizes, KvType, WeightSizes

PROCESS_BYTES = 400_000_000
"""Of a worker beside its model: Python, libraries, vocabulary, pictures on their way."""
_WINDOWS_SHARE = 0.2
"""What bulk jobs add to the context takes at most so much of the free memory."""
MODEST_WIDTH = 16
"""More bulk jobs are computed together on a CPU only where nothing else has to be saved for them, and their step is short: they
gain little more."""
SMALL_CACHE_SHARE = 0.25
"""Of the caches, where memory is short."""
_SPARE_GPU_SHARE = 0.05
"""Of a GPU's memory, larger rooms leave so much to what is not in the plan, as what kernels and pictures take meanwhile."""
_GB = 1e9


class Budget(msgspec.Struct, frozen=True):
    """Bytes that the model may take."""

    free: int
    swap: int = 0
    gpu_free: int | None = None
    """Of the GPUs that llama.cpp uses; None: it uses none."""


class ModelParts(msgspec.Struct, frozen=True):
    """What is to be loaded, in bytes."""

    name: str
    weights: WeightSizes
    projector: int = 0
    caches: int = 0
    """Host memory for recent conversations and pictures."""
    gpu_share: float = 0.0
    """Of the layers that lie on the GPU."""


class MemoryPlan(msgspec.Struct, frozen=True):
    """How a model is loaded, and the bytes it then takes."""

    kv_type: KvType
    repack: bool
    width: int
    """Most bulk jobs computed together."""
    cache_share: float
    """So much of the configured host memory is for recent conversations and pictures."""
    need: int
    """Memory that makes it run at full speed."""
    held: int
    """Of that, what the system cannot take back."""
    copied: int = 0
    """Bytes of weights that are copied into the processor's own order, so that their place in the file is not read again."""
    gpu_need: int = 0
    tables_on_gpu: bool = False
    """Whether the GPU has room for the tables that are otherwise read by rows from the mapped file."""
    own_tokens: int = 0
    """Tokens for whose keys and values each bulk job has cells of its own, beside which no other's are passed over; 0: there is
    no room for that, and all jobs share theirs."""
    configured_need: int = 0
    """What it would take with nothing done to save memory."""
    note: str = ""
    """A sentence about what was done to save memory; empty where nothing was."""


class PlanAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a process that plans tells another one: the plan, or why there is none."""

    plan: MemoryPlan | None = None
    problem: str = ""


class SizesOf(Protocol):
    """Tells what a context takes; None: there is none, or more is taken than it is worth."""

    def __call__(self, kv_type: KvType, width: int, *, own_tokens: int = 0) -> ContextSizes | None:
        """`kv_type`: how keys and values are kept; `width`: bulk jobs together; `own_tokens`: for so many each has cells of its
        own, 0: they share theirs."""


def choose(
    parts: ModelParts,
    sizes: SizesOf,
    budget: Budget,
    *,
    kv_types: tuple[KvType, ...],
    repacks: tuple[bool, ...],
    widths: list[int],
    own_widths: Sequence[int] = (),
    own_rooms: Sequence[int] = (),
) -> MemoryPlan:
    """The first plan that fits, of: as configured, smaller caches, fewer bulk jobs, the context as q8_0, bulk jobs one by one,
    and, as what is then short is read from the file again, no copies of weights.

    `own_widths`, widest first: the first one that fits is planned instead, each job with cells of its own for the most tokens
    that fit then, of `own_rooms`, which rise. Without a GPU that is only the width that is planned in any case, and nothing is
    saved for it; with one, caches in host memory may be.
    Raises ModelProblem where even the last plan holds more than there is.
    """
    if budget.gpu_free is None:
        if len(widths) > 1:
            widths = _modest_widths(parts, sizes, kv_types[0], repacks[0], widths, budget.free)
        own_widths = [width for width in own_widths if width == widths[0]]
    if (own := _own_plan(parts, sizes, budget, kv_types[0], repacks[0], own_widths, own_rooms)) is not None:
        return _with_tables(own, parts, budget)
    plans = list(_plans(parts, sizes, kv_types, repacks, widths))
    if plans and plans[0].need <= budget.free:  # a GPU is short of memory then, which holds no caches
        plans = [msgspec.structs.replace(plan, cache_share=1.0) for plan in plans]
    if not plans:
        raise ModelProblem(f"A context of {parts.name} cannot be kept as {kv_types[0]}: set vlm.kv_cache to auto or f16.")
    first = plans[0]
    for plan in plans:
        if _has_gpu_room(plan, budget) and plan.need <= budget.free:
            note = _note(parts, first, plan, budget) if plan is not first else ""
            return _with_tables(msgspec.structs.replace(plan, configured_need=first.need, note=note), parts, budget)
    last = plans[-1]
    if _has_gpu_room(last, budget) and last.held <= budget.free + budget.swap:
        return msgspec.structs.replace(last, configured_need=first.need, note=_note(parts, first, last, budget))
    raise ModelProblem(_refusal(parts, last, budget))


def _own_plan(
    parts: ModelParts,
    sizes: SizesOf,
    budget: Budget,
    kv_type: KvType,
    repack: bool,
    widths: Sequence[int],
    rooms: Sequence[int],
) -> MemoryPlan | None:
    """The first plan that fits with cells of each bulk job's own; None: none does. They are for more tokens than the fewest as
    far as a GPU has room to spare, and for the model's tables, with which every prompt is computed sooner."""
    for cache_share in (1.0,) if budget.gpu_free is None else (1.0, SMALL_CACHE_SHARE):
        for width in widths:
            best: MemoryPlan | None = None
            for room in rooms:
                context = sizes(kv_type, width, own_tokens=room)
                if context is None:
                    break
                first = _plan(parts, context, kv_type, repack, width, 1.0)
                plan = first if cache_share == 1.0 else _plan(parts, context, kv_type, repack, width, cache_share)
                if not _has_gpu_room(plan, budget) or plan.need > budget.free:
                    break
                if best is not None and not _leaves_spare_room(plan, best, parts, budget):
                    break
                note = _note(parts, first, plan, budget) if plan is not first else ""
                best = msgspec.structs.replace(plan, own_tokens=room, configured_need=first.need, note=note)
            if best is not None:
                return best
    return None


def _modest_widths(parts: ModelParts, sizes: SizesOf, kv_type: KvType, repack: bool, widths: list[int], free: int) -> list[int]:
    """Those of the widths, widest first, whose sliding windows take a modest share of the memory; the last in any case."""
    alone = sizes(kv_type, widths[-1])
    if alone is None:
        return widths
    for at, width in enumerate(widths):
        together = sizes(kv_type, width)
        if together is None or together.kv - alone.kv > _WINDOWS_SHARE * free:
            continue
        if width <= MODEST_WIDTH or _plan(parts, together, kv_type, repack, width, 1.0).need <= free:
            return widths[at:]
    return widths[-1:]


def _plans(
    parts: ModelParts, sizes: SizesOf, kv_types: tuple[KvType, ...], repacks: tuple[bool, ...], widths: list[int]
) -> Iterator[MemoryPlan]:
    """Every plan, each taking less than the one before."""
    usable = [kv_type for kv_type in kv_types if sizes(kv_type, widths[-1]) is not None]
    if not usable:
        return
    several = widths[:-1] or widths
    steps = [(usable[0], repacks[0], widths[0], 1.0)]
    steps += [(usable[0], repacks[0], width, SMALL_CACHE_SHARE) for width in several]
    steps += [(kv_type, repacks[0], several[-1], SMALL_CACHE_SHARE) for kv_type in usable[1:]]
    steps += [(usable[-1], repacks[0], width, SMALL_CACHE_SHARE) for width in widths[len(several) :]]
    if parts.weights.repacked:
        steps += [(usable[-1], repack, widths[-1], SMALL_CACHE_SHARE) for repack in repacks[1:]]
    for kv_type, repack, width, cache_share in steps:
        context = sizes(kv_type, width)
        if context is not None:
            yield _plan(parts, context, kv_type, repack, width, cache_share)


def _plan(
    parts: ModelParts, context: ContextSizes, kv_type: KvType, repack: bool, width: int, cache_share: float
) -> MemoryPlan:
    host_share = 1.0 - parts.gpu_share
    weights = parts.weights
    copied = int(weights.repacked * host_share) if repack else 0
    mapped = int((weights.total - weights.row_tables) * host_share) - copied
    projector = parts.projector if host_share == 1.0 else 0
    held = copied + int(context.kv * host_share) + context.compute + projector + int(parts.caches * cache_share) + PROCESS_BYTES
    on_gpu = 0.0
    if parts.gpu_share:
        on_gpu = parts.gpu_share * (weights.total - weights.row_tables + context.kv) + context.gpu_compute
        on_gpu += parts.projector
    need = held + max(mapped, 0)
    return MemoryPlan(kv_type, repack, width, cache_share, need=need, held=held, copied=copied, gpu_need=int(on_gpu))


def _with_tables(plan: MemoryPlan, parts: ModelParts, budget: Budget) -> MemoryPlan:
    """The plan with the model's tables on the GPU too, where all its layers are there and that fits."""
    if not _has_table_room(plan, parts, budget):
        return plan
    return msgspec.structs.replace(plan, gpu_need=plan.gpu_need + parts.weights.row_tables, tables_on_gpu=True)


def _has_table_room(plan: MemoryPlan, parts: ModelParts, budget: Budget) -> bool:
    """Whether a GPU holds all layers and has room for the model's tables beside what is planned for it."""
    if budget.gpu_free is None or parts.gpu_share < 1.0:
        return False
    return plan.gpu_need + parts.weights.row_tables <= budget.gpu_free


def _leaves_spare_room(plan: MemoryPlan, smaller: MemoryPlan, parts: ModelParts, budget: Budget) -> bool:
    """Whether a GPU has memory to spare beside a plan, and beside the tables that it has room for with a smaller one."""
    if budget.gpu_free is None:
        return True
    tables = parts.weights.row_tables if _has_table_room(smaller, parts, budget) else 0
    return plan.gpu_need + tables <= (1.0 - _SPARE_GPU_SHARE) * budget.gpu_free


def _has_gpu_room(plan: MemoryPlan, budget: Budget) -> bool:
    return budget.gpu_free is None or plan.gpu_need <= budget.gpu_free


def _note(parts: ModelParts, configured: MemoryPlan, plan: MemoryPlan, budget: Budget) -> str:
    done = []
    if plan.cache_share != configured.cache_share:
        done.append("its caches for conversations and pictures are a quarter")
    if plan.width != configured.width:
        done.append(f"at most {plan.width} bulk jobs are computed together" if plan.width > 1 else "bulk jobs run one by one")
    if plan.kv_type != configured.kv_type:
        done.append(f"its context is kept as {plan.kv_type}")
    if plan.repack != configured.repack:
        done.append("its weights are not repacked")
    if plan.need > budget.free:
        done.append("parts of its file are read again and again")
    return f"{_shortage(parts, configured, budget)}: {', '.join(done) or 'it is loaded all the same'}."


def _shortage(parts: ModelParts, plan: MemoryPlan, budget: Budget) -> str:
    if not _has_gpu_room(plan, budget):
        assert budget.gpu_free is not None
        there = f"{plan.gpu_need / _GB:.1f} GB of the GPU's memory and {budget.gpu_free / _GB:.1f} GB of it are free"
    else:
        there = f"{plan.need / _GB:.1f} GB of memory and {budget.free / _GB:.1f} GB are free for it"
    return f"{parts.name} as configured wants {there}"


def _refusal(parts: ModelParts, last: MemoryPlan, budget: Budget) -> str:
    if not _has_gpu_room(last, budget):
        assert budget.gpu_free is not None
        return (
            f"{parts.name} needs at least {last.gpu_need / _GB:.1f} GB of the GPU's memory and "
            f"{budget.gpu_free / _GB:.1f} GB of it are free: set fewer vlm.gpu_layers, or a smaller vlm.context or vlm.model."
        )
    return (
        f"{parts.name} needs at least {last.held / _GB:.1f} GB of memory and {(budget.free + budget.swap) / _GB:.1f} GB are "
        "free for it: set a smaller vlm.context or vlm.model, or end other programs."
    )
