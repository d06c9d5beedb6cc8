"""Whether there are values at all that schemas allow together, members and items that have to be there included."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from batch.workers.chat.grammar.schema.shapes import Arrays, Objects, PartKey, Parts, Shape

_Key = frozenset[PartKey]


class Possibility:
    """Answers for one document. Values that would have to hold themselves, without an end, count as impossible."""

    def __init__(self, shapes: Callable[[Parts], tuple[Shape, ...]]) -> None:
        self._shapes = shapes
        self._possible: dict[_Key, bool] = {}

    def of(self, parts: Parts) -> bool:
        """Whether any value is allowed where all these schemas hold."""
        key = _key(parts)
        if key not in self._possible:
            self._settle(parts)
        return self._possible[key]

    def possible(self, parts: Parts) -> list[Shape]:
        """The alternatives of which there are values."""
        return [shape for shape in self._shapes(parts) if _has_value(shape, self.of)]

    def _settle(self, parts: Parts) -> None:
        places: dict[_Key, Parts] = {}
        waiting = [parts]
        while waiting:
            place = waiting.pop()
            if (key := _key(place)) in places or key in self._possible:
                continue
            places[key] = place
            for shape in self._shapes(place):
                waiting += _needed(shape)
        possible: set[_Key] = set()

        def is_possible(place: Parts) -> bool:
            key = _key(place)
            return self._possible.get(key, False) or key in possible

        # The innermost places were found last, so most documents take one round.
        before = -1
        while before < len(possible):
            before = len(possible)
            for key in reversed(places):
                if key not in possible and any(_has_value(s, is_possible) for s in self._shapes(places[key])):
                    possible.add(key)
        self._possible.update({key: key in possible for key in places})


def _needed(shape: Shape) -> Iterator[Parts]:
    """The places whose possibility decides about the shape's."""
    match shape:
        case Objects():
            for name, parts in shape.members:
                if name in shape.required or shape.least > len(shape.required):
                    yield parts
            if shape.least > len(shape.required):
                yield from (other.parts for other in shape.others)
        case Arrays():
            yield from shape.first[: shape.least]
            if shape.least > len(shape.first):
                yield shape.items
            yield from ((c.part, *shape.items) for c in shape.contained if not shape.first)


def _has_value(shape: Shape, is_possible: Callable[[Parts], bool]) -> bool:
    match shape:
        case Objects():
            if not all(is_possible(parts) for name, parts in shape.members if name in shape.required):
                return False
            if shape.least <= len(shape.required) or any(is_possible(other.parts) for other in shape.others):
                return True
            return sum(is_possible(parts) for _, parts in shape.members) >= shape.least
        case Arrays():
            if not all(is_possible(parts) for parts in shape.first[: shape.least]):
                return False
            if any(not is_possible((c.part, *shape.items)) for c in shape.contained if c.least and not shape.first):
                return False
            return shape.least <= len(shape.first) or is_possible(shape.items)
    return True


def _key(parts: Parts) -> _Key:
    return frozenset(part.key for part in parts)
