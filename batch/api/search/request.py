"""What a client may send to search: keys of a query string, or the same keys as JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.datastructures import QueryParams

from batch.api.json_body import Body, parse_json
from batch.errors import BadRequest
from batch.search.request import SearchRequest

Words = str | list[str]


class SearchBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys of a search."""

    query: str | None = None
    q: str | None = None
    like: str | None = None
    mode: str | None = None
    kind: Words | None = None
    folder: str | None = None
    language: str | None = None
    model: str | None = None
    since: str | None = None
    until: str | None = None
    limit: Annotated[int, Meta(ge=-(2**31), le=2**31)] | None = None
    offset: Annotated[int, Meta(ge=-(2**31), le=2**31)] | None = None
    min_similarity: float | None = None

    def request(self) -> SearchRequest:
        """The checked search. Raises BadRequest, which names the parameter."""
        if self.query is not None and self.q is not None:
            raise BadRequest('"query" and "q" are two names for one thing: send one.', param="q")
        kinds = [self.kind] if isinstance(self.kind, str) else self.kind
        return SearchRequest.of(
            query=self.query if self.query is not None else self.q,
            like=self.like,
            mode=self.mode,
            kinds=kinds,
            folder=self.folder,
            language=self.language,
            model=self.model,
            since=self.since,
            until=self.until,
            limit=self.limit,
            offset=self.offset,
            min_similarity=self.min_similarity,
        )


_NUMBERS: dict[str, Callable[[str], float]] = {"limit": int, "offset": int, "min_similarity": float}


def read_json(data: bytes) -> SearchRequest:
    """The search in a request body."""
    document = parse_json(data)
    if not isinstance(document, dict):
        raise BadRequest("The request body must be a JSON object.")
    return _checked({name: value for name, value in document.items() if value is not None})


def read_parameters(parameters: QueryParams) -> SearchRequest:
    """The search in a query string; `kind` may stand there several times, everything else once."""
    values: dict[str, object] = {}
    for name in parameters:
        if name not in SearchBody.__struct_fields__:  # before the next line, which goes through all of the address
            raise BadRequest(f'There is no parameter "{name}" of a search.', param=name)
        texts = parameters.getlist(name)
        if name == "kind":
            values[name] = texts
        elif len(texts) > 1:
            raise BadRequest(f'"{name}" stands in the address {len(texts)} times: send it once.', param=name)
        else:
            values[name] = _number(name, texts[0]) if name in _NUMBERS else texts[0]
    return _checked(values)


def _number(name: str, text: str) -> float:
    try:
        return _NUMBERS[name](text)
    except ValueError:
        raise BadRequest(f'"{name}" must be a number.', param=name) from None


def _checked(values: dict[str, object]) -> SearchRequest:
    for name in values:
        if name not in SearchBody.__struct_fields__:
            raise BadRequest(f'There is no parameter "{name}" of a search.', param=name)
    for name, value in values.items():
        try:
            msgspec.convert({name: value}, SearchBody)
        except msgspec.ValidationError as error:
            reason = str(error).split(" - at ")[0]
            raise BadRequest(f'"{name}" is not valid: {reason[:1].lower()}{reason[1:]}.', param=name) from None
    return msgspec.convert(values, SearchBody).request()
