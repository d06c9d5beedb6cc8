"""The rules by which two lists of contents become one."""

from __future__ import annotations

import pytest

from batch.search.ranking import is_foreign_script


@pytest.mark.parametrize(
    ("query", "known_scripts", "is_foreign"),
    [
        ("red circle", ["Latin"], False),
        ("東京タワー", ["Latin"], True),
        ("Tokyo 東京タワー", ["Latin"], False),
        ("東京タワー", ["Han", "Latin"], True),
        ("北京的桥", ["Han", "Latin"], False),
        ("мост", ["Latin"], True),
        ("мост", [], False),
        ("2026", ["Latin"], False),
    ],
)
def test_a_query_is_foreign_when_most_of_its_letters_are_of_scripts_that_the_model_does_not_know(
    query: str, known_scripts: list[str], is_foreign: bool
) -> None:
    assert is_foreign_script(query, known_scripts) is is_foreign
