"""Large JSON arrays and objects read a slice at a time, so that neither memory nor the interpreter's lock is held for long."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

SLICE_BYTES = 1 << 20
"""Bytes looked at together: a few milliseconds."""

JSON_SPACE = b" \t\n\r"
_QUOTE, _BACKSLASH, _COMMA = b'"\\,'
_BRACKETS = {b"["[0]: b"]"[0], b"{"[0]: b"}"[0]}

Offsets = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def element_slices(data: bytes | memoryview, slice_bytes: int = SLICE_BYTES) -> Iterator[memoryview]:
    """The text between the brackets of one JSON array or object, cut at commas between its elements.

    A slice holds elements of at most `slice_bytes` together, or one that is larger; an empty array has none. Raises
    ValueError where brackets do not match or an element is missing. What stands inside the elements is not checked.
    """
    view = memoryview(data)
    start, end = 0, len(view)
    while start < end and view[start] in JSON_SPACE:
        start += 1
    while end > start and view[end - 1] in JSON_SPACE:
        end -= 1
    if end - start < 2 or _BRACKETS.get(view[start]) != view[end - 1]:
        raise ValueError("brackets do not match")
    view = view[start + 1 : end - 1]
    start = 0
    for border, commas in _outer_commas(view, slice_bytes):
        if len(commas) and start < border:  # an element that crosses a border stands alone
            yield _not_blank(view[start : commas[0]])
            start = int(commas[0]) + 1
            commas = commas[1:]
        is_last = border + slice_bytes >= len(view)
        if len(commas) and not is_last:
            yield _not_blank(view[start : commas[-1]])
            start = int(commas[-1]) + 1
    if start or not _is_blank(view):
        yield _not_blank(view[start:])


def _is_blank(part: memoryview) -> bool:
    return not part or (part[0] in JSON_SPACE and not bytes(part).strip(JSON_SPACE))


def _not_blank(part: memoryview) -> memoryview:
    if _is_blank(part):
        raise ValueError("an element is missing between two commas")
    return part


def _outer_commas(view: memoryview, slice_bytes: int) -> Iterator[tuple[int, Offsets]]:
    """(offset of a part, offsets of the commas in it that no string or bracket holds), part by part."""
    in_string, backslashes, depth = False, 0, 0
    for border in range(0, len(view), slice_bytes):
        part = np.frombuffer(view[border : border + slice_bytes], np.uint8)
        quotes = part == _QUOTE
        slashes = part == _BACKSLASH
        if backslashes or slashes.any():
            escaped, backslashes = _escaped(slashes, backslashes)
            quotes &= ~escaped
        # odd counts of quotes so far: inside a string
        outside: Mask = (np.cumsum(quotes, dtype=np.uint8) & 1) == in_string
        in_string = not outside[-1]
        steps = np.zeros(len(part), np.int8)
        for opening, closing in _BRACKETS.items():
            steps += (part == opening) & outside
            steps -= (part == closing) & outside
        depths = np.cumsum(steps, dtype=np.int32)
        depths += depth
        depth = int(depths[-1])
        if depths.min() < 0:
            raise ValueError("brackets do not match")
        yield border, np.flatnonzero((part == _COMMA) & outside & (depths == 0)) + border
    if in_string or depth:
        raise ValueError("brackets do not match")


def _escaped(slashes: Mask, before: int) -> tuple[Mask, int]:
    """Which bytes have an odd number of backslashes before them, and how many backslashes stand at the end.

    `before` is how many stand before the first byte.
    """
    at = np.arange(len(slashes), dtype=np.int32)
    last_other = np.maximum.accumulate(np.where(slashes, np.int32(-1), at))
    runs = at - last_other
    runs[last_other < 0] += before
    return np.concatenate([np.array([before], np.int32), runs[:-1]]) % 2 == 1, int(runs[-1])
