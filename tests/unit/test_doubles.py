"""The tests' doubles keep to what they stand for: the same methods, the same parameters."""

from __future__ import annotations

import inspect
import re

import pytest

from batch.queue.hub.hub import Hub
from batch.queue.hub.ticket import Ticket
from batch.workers import engine
from paths import ROOT
from scripted_hub import ScriptedHub, ScriptedTicket
from scripted_work import ScriptedWork

REAL_ONLY = {"submit_once", "keep_stream"}
"""What tests with Idempotency-Keys and streamed uploads use the real hub for."""

PAIRS = [(ScriptedHub, Hub), (ScriptedTicket, Ticket), (ScriptedWork, engine.Work)]


@pytest.mark.parametrize(("double", "real"), PAIRS, ids=lambda each: each.__name__)
def test_a_double_takes_the_parameters_of_what_it_stands_for(double: type, real: type) -> None:
    shared = [name for name in vars(double) if not name.startswith("_") and callable(getattr(real, name, None))]
    assert len(shared) >= 3
    for name in shared:
        doubled, original = (list(inspect.signature(getattr(each, name)).parameters) for each in (double, real))
        assert doubled == original, f"{double.__name__}.{name}"


def test_the_hubs_double_has_all_that_the_ports_use_of_the_hub() -> None:
    sources = [path.read_text("utf-8") for path in (ROOT / "batch" / "api").rglob("*.py")]
    used = {name for source in sources for name in re.findall(r"\bhub\.(\w+)\(", source)}
    assert len(used) > 5
    assert used - set(dir(Hub)) == set(), "no such method"
    assert used - set(dir(ScriptedHub)) == REAL_ONLY
