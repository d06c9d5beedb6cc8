"""JSON text as structs: what `decode` takes, a decoder that was prepared for its type takes too."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from batch.payloads.events import Delta, JobEvent, Started
from batch.payloads.json_text import decode, decoder, encode
from batch.queue.frames import End, WorkerFrame
from batch.queue.jobs import State

READERS: dict[str, Callable[[Any], Callable[[bytes], Any]]] = {
    "decode": lambda type: lambda text: decode(text, type),
    "decoder": decoder,
}


@pytest.fixture(params=READERS)
def reader_of(request: pytest.FixtureRequest) -> Callable[[Any], Callable[[bytes], Any]]:
    return READERS[request.param]


def test_a_union_is_read_as_the_struct_that_its_tag_names(reader_of: Callable[[Any], Callable[[bytes], Any]]) -> None:
    read = reader_of(WorkerFrame)
    frames: list[JobEvent | End] = [Started(job="1"), Delta(job="1", index=2), End(job="1", state=State.DONE)]
    assert [read(encode(frame)) for frame in frames] == frames


def test_what_does_not_fit_the_type_is_a_validation_error(reader_of: Callable[[Any], Callable[[bytes], Any]]) -> None:
    with pytest.raises(msgspec.ValidationError):
        reader_of(WorkerFrame)(b'{"type":"started","job":5}')


def test_json_that_pythons_own_module_wrote_is_read(reader_of: Callable[[Any], Callable[[bytes], Any]]) -> None:
    assert math.isnan(reader_of(list[Any])(b"[NaN]")[0])
    assert reader_of(list[str])(b'["\\ud800"]') == ["\ud800"]


def test_what_is_no_json_is_a_value_error(reader_of: Callable[[Any], Callable[[bytes], Any]]) -> None:
    with pytest.raises(ValueError, match="Expecting"):
        reader_of(list[str])(b"[")
