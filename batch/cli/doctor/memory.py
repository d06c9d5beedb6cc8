"""Whether the models fit into this machine's memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from batch.cli.doctor.finding import Finding
from batch.errors import ModelProblem
from batch.memory.machine import machine_memory
from batch.memory.plan import PlanAnswer
from batch.model_kind import Kind

if TYPE_CHECKING:
    from batch.settings import Settings

MEMORY_PER_FILE_BYTE = {Kind.VLM: 1.8, Kind.EMBEDDING: 1.5, Kind.STT: 1.3}
"""A worker's memory by its model's files, where nothing more exact is known."""
SERVICE_BYTES = 300_000_000
"""What the service and its workers take beside the models."""
PLAN_TIMEOUT_S = 120


def check_memory(settings: Settings) -> Finding:
    """What the models on this machine will take together, against what there is."""
    from batch.catalog import resolve

    needs: dict[str, float] = {}
    answer = PlanAnswer()
    for kind in Kind:
        try:
            model = resolve(settings, kind)
        except ModelProblem:
            continue  # it has a finding of its own
        files = [path for path in (model.path, model.mmproj) if path is not None and path.is_file()]
        needs[kind] = MEMORY_PER_FILE_BYTE[kind] * sum(path.stat().st_size for path in files)
        if kind is Kind.VLM:
            answer = ask_planner(settings)
            if answer.plan is not None:
                needs[kind] = answer.plan.configured_need
    memory = machine_memory()
    return judge(needs, memory.total if memory else None, answer)


def ask_planner(settings: Settings) -> PlanAnswer:
    """How the chat model would be loaded on this machine with nothing else on it; an empty answer where that cannot be said.
    llama.cpp is asked in a process of its own."""
    command = [sys.executable, "-m", "batch.workers.chat.memory_planner"]
    try:
        done = subprocess.run(
            command, input=settings.model_dump_json().encode(), capture_output=True, timeout=PLAN_TIMEOUT_S, check=False
        )
        return msgspec.json.decode(done.stdout, type=PlanAnswer)
    except (subprocess.TimeoutExpired, msgspec.MsgspecError):
        return PlanAnswer()


def judge(needs: Mapping[str, float], available: int | None, answer: PlanAnswer) -> Finding:
    """`needs`: bytes by kind of model; `available`: bytes of memory, None where the system does not say; `answer`: how the
    chat model would be loaded."""
    parts = ", ".join(f"{kind} {need / 1e9:.1f}" for kind, need in needs.items())
    need = sum(needs.values()) + SERVICE_BYTES
    state = f"the models take about {need / 1e9:.1f} GB ({parts or 'none is there'})"
    if answer.plan is not None and answer.plan.gpu_need:
        state += f", and {answer.plan.gpu_need / 1e9:.1f} GB of the GPU's memory"
    if available is not None:
        state += f"; this machine has {available / 1e9:.1f} GB"
    if answer.problem:
        return Finding("memory", state, answer.problem)
    if answer.plan is not None and answer.plan.note:
        return Finding("memory", f"{state}. {answer.plan.note}")
    if available is None or need <= available:
        return Finding("memory", state)
    largest = max(needs, key=lambda kind: needs[kind])
    return Finding("memory", state, f"Set {largest}.model to a smaller one, or run them where there is more memory.")
