"""The hub that tests play from a script has the interface of the real one, so that neither can drift from the other."""

from __future__ import annotations

import inspect

import pytest

from batch.queue.hub.hub import Hub
from batch.queue.hub.ticket import Ticket
from scripted_hub import ScriptedHub, ScriptedTicket

PAIRS = [(ScriptedHub, Hub), (ScriptedTicket, Ticket)]


@pytest.mark.parametrize(("double", "real"), PAIRS)
def test_every_method_of_a_double_takes_what_the_real_one_takes(double: type, real: type) -> None:
    methods = [name for name, value in vars(double).items() if inspect.isfunction(value) and not name.startswith("_")]
    assert methods
    for name in methods:
        method = getattr(real, name, None)
        assert callable(method), f"{real.__name__} has no {name} any more"
        ours = [p.name for p in inspect.signature(getattr(double, name)).parameters.values()]
        theirs = [p.name for p in inspect.signature(method).parameters.values()]
        assert ours == theirs, f"{name}: {ours} is not {theirs}"
