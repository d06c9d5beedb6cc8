"""The fence around a JSON answer is taken off, whatever the answer holds and however it is cut."""

from __future__ import annotations

import pytest

from batch.workers.chat.dialects.code_fence import Fence


def unfenced(pieces: list[str]) -> str:
    fence = Fence()
    return "".join([*map(fence.feed, pieces), fence.finish()])


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ('```json\n{"a": 1}\n```', '{"a": 1}'),
        ('  ```json {"a": "``` ` "} ``` \n', '{"a": "``` ` "}'),
        ('{"a": 1}', '{"a": 1}'),
        ("```json\n[1]\n````", "[1]\n`"),
        ("```json\n[1]", "[1]"),
        ("```json\n```", ""),
    ],
)
def test_a_fence_is_taken_off_however_the_text_is_cut(text: str, inside: str) -> None:
    for at in range(len(text) + 1):
        assert unfenced([text[:at], text[at:]]) == inside
    assert unfenced(list(text)) == inside


def test_a_long_run_of_space_inside_an_answer_takes_no_time() -> None:
    cells = '```json\n{"table": "' + " " * 20_000
    assert unfenced([*cells, 'x"}', "\n```"]) == '{"table": "' + " " * 20_000 + 'x"}'
