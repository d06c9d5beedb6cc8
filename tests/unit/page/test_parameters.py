"""What an address says, however much it says."""

from __future__ import annotations

import time

import pytest
from starlette.datastructures import QueryParams
from starlette.requests import Request

from batch.api.search.request import read_parameters
from batch.errors import BadRequest
from batch.page.parameters import Parameters

ADDRESS = "&".join(f"{number:x}" for number in range(14_000))
"""As many names as fit into a request's head: looking for each of them in all of them takes seconds."""


def test_an_address_of_thousands_of_names_is_read_in_one_pass() -> None:
    request = Request({"type": "http", "query_string": f"kind=a&{ADDRESS}&kind=b".encode(), "headers": []})
    started_at = time.process_time()
    assert Parameters.of_address(request).texts("kind") == ["a", "b"]
    assert time.process_time() - started_at < 1


def test_a_search_with_thousands_of_names_is_refused_at_the_first_that_is_none() -> None:
    started_at = time.process_time()
    with pytest.raises(BadRequest, match='no parameter "0"'):
        read_parameters(QueryParams(f"q=a&{ADDRESS}"))
    assert time.process_time() - started_at < 1
