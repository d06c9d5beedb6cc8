"""How a chat model is made to fit: in which order memory is saved, and what people are told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from batch.errors import ModelProblem
from batch.memory.plan import PROCESS_BYTES, Budget, MemoryPlan, ModelParts, choose
from batch.memory.sizes import ContextSizes, KvType, WeightSizes

GB = 1_000_000_000
WINDOW = 20_000_000
"""Of one bulk job."""
ROOM = 4096
"""Tokens for which a bulk job has cells of its own at least, which take two windows more."""
MODEL = ModelParts(name="model", weights=WeightSizes(total=5 * GB, repacked=2 * GB, row_tables=2 * GB), caches=GB)
EVERYTHING_BYTES = 3 * GB + 2 * GB + 16 * WINDOW + GB + PROCESS_BYTES
"""What it takes as configured: weights that are not read by rows, keys and values of 16 jobs, caches, the process."""


def sizes(kv_type: KvType, width: int, *, own_tokens: int = 0) -> ContextSizes | None:
    kv = 2 * GB + width * WINDOW * (1 + 2 * own_tokens // ROOM)
    return ContextSizes(kv=kv if kv_type == "f16" else kv // 2, compute=0, gpu_compute=0)


def plan(budget: Budget, parts: ModelParts = MODEL, **more: Any) -> MemoryPlan:
    values: dict[str, Any] = {
        "kv_types": ("f16", "q8_0"),
        "repacks": (True, False),
        "widths": [16, 8, 1],
        "own_rooms": [ROOM],
        **more,
    }
    return choose(parts, values.pop("sizes", sizes), budget, **values)


def chosen(budget: Budget, **more: Any) -> tuple[str, bool, int]:
    it = plan(budget, **more)
    return it.kv_type, it.repack, it.width


def test_nothing_changes_where_all_fits() -> None:
    it = plan(Budget(EVERYTHING_BYTES))
    assert (it.kv_type, it.repack, it.width, it.note) == ("f16", True, 16, "")
    assert it.need == it.configured_need == EVERYTHING_BYTES
    assert it.held == EVERYTHING_BYTES - GB  # of the weights, a gigabyte is read from the file


def test_memory_is_saved_in_the_order_that_is_documented() -> None:
    caches, eight, quantised, one = 750_000_000, 160_000_000, 1_080_000_000, 70_000_000
    saved = 0
    steps = []
    for step in (0, caches, eight, quantised, one):
        saved += step
        it = plan(Budget(EVERYTHING_BYTES - saved - 1))
        steps.append((it.cache_share, it.kv_type, it.width, it.repack))
    assert steps == [
        (0.25, "f16", 16, True),
        (0.25, "f16", 8, True),
        (0.25, "q8_0", 8, True),
        (0.25, "q8_0", 1, True),
        (0.25, "q8_0", 1, False),
    ]


def test_what_was_done_is_told_in_one_sentence() -> None:
    assert plan(Budget(EVERYTHING_BYTES - 1)).note == (
        "model as configured wants 6.7 GB of memory and 6.7 GB are free for it: "
        "its caches for conversations and pictures are a quarter."
    )
    assert plan(Budget(4 * GB)).note == (
        "model as configured wants 6.7 GB of memory and 4.0 GB are free for it: "
        "its caches for conversations and pictures are a quarter, bulk jobs run one by one, its context is kept as q8_0, "
        "its weights are not repacked, parts of its file are read again and again."
    )


def test_a_model_that_holds_more_than_there_is_is_refused_in_one_sentence() -> None:
    with pytest.raises(ModelProblem) as refused:
        plan(Budget(1 * GB))
    assert refused.value.message == (
        "model needs at least 1.7 GB of memory and 1.0 GB are free for it: set a smaller vlm.context or vlm.model, or end "
        "other programs."
    )
    assert not plan(Budget(1 * GB, swap=GB)).repack  # it is slow, and nothing is killed


def test_what_a_person_has_set_stays() -> None:
    assert chosen(Budget(4 * GB), kv_types=("f16",)) == ("f16", False, 1)
    assert chosen(Budget(4 * GB), repacks=(True,)) == ("q8_0", True, 1)
    assert chosen(Budget(4 * GB), widths=[16]) == ("q8_0", False, 16)


def test_bulk_jobs_take_a_modest_share_of_the_memory_though_more_would_fit() -> None:
    def wide(kv_type: KvType, width: int, *, own_tokens: int = 0) -> ContextSizes | None:
        return ContextSizes(kv=width * GB, compute=0, gpu_compute=0)

    it = plan(Budget(40 * GB), sizes=wide)
    assert (it.width, it.note) == (8, "")


def test_more_than_sixteen_bulk_jobs_are_planned_only_where_nothing_is_saved_for_them() -> None:
    more = EVERYTHING_BYTES + 16 * WINDOW
    for free, width in ((more, 32), (more - 1, 16), (EVERYTHING_BYTES, 16)):
        it = plan(Budget(free), widths=[32, 16, 8, 1])
        assert (it.width, it.cache_share, it.note) == (width, 1.0, "")


def test_without_a_gpu_own_cells_are_given_up_before_anything_is_saved() -> None:
    shared = EVERYTHING_BYTES
    own = shared + 16 * 2 * WINDOW
    for free, room, need in ((own, ROOM, own), (own - 1, 0, shared), (shared, 0, shared)):
        it = plan(Budget(free), own_widths=[32, 16, 8])
        assert (it.width, it.own_tokens, it.cache_share, it.need, it.configured_need, it.note) == (
            16,
            room,
            1.0,
            need,
            need,
            "",
        )
    assert not plan(Budget(EVERYTHING_BYTES - 1), own_widths=[16, 8]).own_tokens


def test_without_a_gpu_no_fewer_are_computed_so_that_they_have_own_cells() -> None:
    wide = EVERYTHING_BYTES + 16 * WINDOW
    it = plan(Budget(wide), widths=[32, 16, 8, 1], own_widths=[32, 16, 8])
    assert (it.width, it.own_tokens) == (32, 0)


def test_without_a_gpu_own_cells_are_for_as_many_tokens_as_there_is_memory_for() -> None:
    for rooms, room in ((8, 4 * ROOM), (7, 2 * ROOM), (4, 2 * ROOM), (3, ROOM), (2, ROOM), (1, 0)):
        it = plan(Budget(EVERYTHING_BYTES + 16 * WINDOW * rooms), own_widths=[16, 8], own_rooms=[ROOM, 2 * ROOM, 4 * ROOM])
        assert (it.width, it.own_tokens, it.note) == (16, room, "")


def test_heads_that_cannot_be_quantised_stay_as_they_are() -> None:
    def only_f16(kv_type: KvType, width: int, *, own_tokens: int = 0) -> ContextSizes | None:
        return sizes(kv_type, width, own_tokens=own_tokens) if kv_type == "f16" else None

    assert chosen(Budget(EVERYTHING_BYTES - 1_050_000_000), sizes=only_f16) == ("f16", True, 1)
    with pytest.raises(ModelProblem, match=r"cannot be kept as q8_0: set vlm\.kv_cache to auto or f16"):
        plan(Budget(EVERYTHING_BYTES), sizes=only_f16, kv_types=("q8_0",))


ON_GPU = ModelParts(name="model", weights=MODEL.weights, gpu_share=1.0, projector=GB)
"""3 GB of weights, 1 of the projector, keys and values are on the GPU."""


@pytest.mark.parametrize(
    ("gpu_gb", "kv_type", "width"), [(80, "f16", 16), (6.2, "f16", 8), (5.1, "q8_0", 8), (5.05, "q8_0", 1)]
)
def test_on_a_gpu_the_gpus_memory_counts(gpu_gb: float, kv_type: str, width: int) -> None:
    it = plan(Budget(16 * GB, gpu_free=int(gpu_gb * GB)), ON_GPU)
    assert (it.kv_type, it.repack, it.width) == (kv_type, True, width)
    assert it.cache_share == 1.0 and it.gpu_need <= gpu_gb * GB and bool(it.note) == (gpu_gb < 80)


@pytest.mark.parametrize(
    ("gpu_gb", "width", "own_kv"), [(80, 64, True), (9.84, 64, True), (9.8, 32, True), (7.91, 32, False), (6.5, 16, False)]
)
def test_on_a_gpu_rather_fewer_have_own_cells_than_more_have_none(gpu_gb: float, width: int, own_kv: bool) -> None:
    widths: dict[str, Any] = {"widths": [32, 16, 8, 1], "own_widths": [64, 32]}
    it = plan(Budget(16 * GB, gpu_free=int(gpu_gb * GB)), ON_GPU, **widths)
    assert (it.width, it.own_tokens > 0, it.kv_type) == (width, own_kv, "f16")
    assert it.gpu_need <= gpu_gb * GB and bool(it.note) == (width == 16)


@pytest.mark.parametrize(
    ("gpu_gb", "width", "room", "has_tables"),
    [
        (80, 64, 4 * ROOM, True),
        (20.55, 64, 4 * ROOM, True),
        (20.54, 64, 2 * ROOM, True),  # larger rooms would fit, but leave nothing to spare beside the tables
        (15.16, 64, 2 * ROOM, True),
        (15.15, 64, ROOM, True),
        (11.83, 64, ROOM, False),
        (9.84, 64, ROOM, False),  # though each of 32 might have twice as many
        (9.83, 32, 2 * ROOM, False),
        (9.68, 32, ROOM, False),
        (7.92, 32, ROOM, False),
    ],
)
def test_on_a_gpu_own_cells_are_for_as_many_tokens_as_leave_width_and_tables_what_they_have_and_room_to_spare(
    gpu_gb: float, width: int, room: int, has_tables: bool
) -> None:
    more: dict[str, Any] = {"widths": [32, 16, 8, 1], "own_widths": [64, 32], "own_rooms": [ROOM, 2 * ROOM, 4 * ROOM]}
    it = plan(Budget(16 * GB, gpu_free=int(gpu_gb * GB)), ON_GPU, **more)
    assert (it.width, it.own_tokens, it.tables_on_gpu, it.note) == (width, room, has_tables, "")
    assert it.gpu_need <= gpu_gb * GB


def test_on_a_gpu_caches_in_host_memory_are_saved_and_own_cells_stay() -> None:
    parts = msgspec.structs.replace(ON_GPU, caches=GB)
    it = plan(Budget(GB, gpu_free=80 * GB), parts, widths=[32, 16, 8, 1], own_widths=[64, 32], own_rooms=[ROOM, 4 * ROOM])
    assert (it.width, it.own_tokens, it.cache_share) == (64, 4 * ROOM, 0.25)
    assert it.note.endswith(": its caches for conversations and pictures are a quarter.")


def test_a_gpu_that_is_too_small_is_named() -> None:
    with pytest.raises(ModelProblem) as refused:
        plan(Budget(16 * GB, gpu_free=4 * GB), ON_GPU)
    assert refused.value.message == (
        "model needs at least 5.0 GB of the GPU's memory and 4.0 GB of it are free: set fewer vlm.gpu_layers, or a smaller "
        "vlm.context or vlm.model."
    )


def test_tables_lie_on_a_gpu_that_holds_all_layers_and_has_room_for_them() -> None:
    everything = plan(Budget(20 * GB, gpu_free=40 * GB), parts=msgspec.structs.replace(MODEL, gpu_share=1.0))
    assert everything.tables_on_gpu
    need = everything.gpu_need
    for free, there in ((need, True), (need - 1, False)):
        narrow = plan(Budget(20 * GB, gpu_free=free), parts=msgspec.structs.replace(MODEL, gpu_share=1.0))
        assert narrow.tables_on_gpu == there and not narrow.note
        assert narrow.gpu_need == need - (0 if there else MODEL.weights.row_tables)
    assert not plan(Budget(20 * GB, gpu_free=40 * GB), parts=msgspec.structs.replace(MODEL, gpu_share=0.5)).tables_on_gpu
    assert not plan(Budget(20 * GB)).tables_on_gpu
