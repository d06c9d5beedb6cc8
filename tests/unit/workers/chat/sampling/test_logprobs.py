"""Log probabilities line up with the content, whatever the parser takes away around it."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from batch.payloads.chat import TokenLogprob
from batch.workers.chat.sampling.logprobs import ContentLogprobs


def drawn(piece: bytes) -> TokenLogprob:
    return TokenLogprob(id=1, token=piece.decode("utf-8", "ignore"), bytes=list(piece), logprob=-1.0)


def taken(items: list[TokenLogprob]) -> bytes:
    return b"".join(bytes(item.bytes) for item in items)


@given(st.text("ab<é🙂", max_size=30), st.data())
def test_joined_they_are_the_content_however_it_is_cut(text: str, data: st.DataObject) -> None:
    raw = text.encode()
    cuts = sorted({0, len(raw), *data.draw(st.lists(st.integers(0, len(raw)), max_size=10))})
    logprobs = ContentLogprobs()
    read = ""
    items: list[TokenLogprob] = []
    for a, b in pairwise(cuts):
        logprobs.add(drawn(raw[a:b]), raw[a:b])
        whole = raw[:b].decode("utf-8", "ignore")
        if new := whole[len(read) :]:
            logprobs.read(new, is_content=True)
            read = whole
        items += logprobs.take(len(read.encode()))
    items += logprobs.take(len(read.encode()), is_last=True)
    assert taken(items) == raw
    assert len(items) == len(cuts) - 1


def test_thinking_and_markers_are_left_out() -> None:
    logprobs = ContentLogprobs()
    for piece in (b"<|channel>", b"thought", b"\n", b"red", b"<channel|>", b"a", b" red"):
        logprobs.add(drawn(piece), piece)
        if piece in (b"red",):
            logprobs.read("red", is_content=False)
        if piece in (b"a", b" red"):
            logprobs.read(piece.decode(), is_content=True)
    assert [item.token for item in logprobs.take(5, is_last=True)] == ["a", " red"]


def test_a_token_that_is_content_in_part_is_cut_to_that_part() -> None:
    logprobs = ContentLogprobs()
    logprobs.add(drawn(b">\n\nHi"), b">\n\nHi")
    logprobs.read("Hi", is_content=True)
    assert [item.token for item in logprobs.take(2)] == ["Hi"]


def test_what_a_stop_string_cuts_off_is_cut_here_too() -> None:
    logprobs = ContentLogprobs()
    for piece in (b"one", b" two", b" three"):
        logprobs.add(drawn(piece), piece)
        logprobs.read(piece.decode(), is_content=True)
    assert [item.token for item in logprobs.take(3)] == ["one"]
    assert [item.token for item in logprobs.take(5, is_last=True)] == [" t"]


def test_bytes_that_are_no_text_count_as_whole_tokens() -> None:
    logprobs = ContentLogprobs()
    logprobs.add(drawn(b"\xff"), b"\xff")
    logprobs.read("\N{REPLACEMENT CHARACTER}", is_content=True)
    assert [item.bytes for item in logprobs.take(3, is_last=True)] == [[0xFF]]


def test_a_call_is_no_content() -> None:
    logprobs = ContentLogprobs()
    for piece in (b"<|tool_call>", b"call:f{"):
        logprobs.add(drawn(piece), piece)
    logprobs.skip()
    assert logprobs.take(0, is_last=True) == []
