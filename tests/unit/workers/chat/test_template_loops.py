"""Searches of chat templates end with their flag, and only where that changes nothing."""

from __future__ import annotations

import pytest
from jinja2 import nodes

from batch.workers.chat.prompt.template_environment import template_environment
from batch.workers.chat.prompt.template_loops import end_searches

STATE = "{%- set s = namespace(found=false, n=0) -%}"


@pytest.mark.parametrize(
    ("loop", "ends"),
    [
        (
            "{%- for j in x -%}{%- if not s.found -%}{%- set s.n = j -%}{%- if j > 2 -%}{%- set s.found = true -%}"
            "{%- endif -%}{%- endif -%}{%- endfor -%}",
            True,
        ),
        (
            "{%- for j in x -%}{%- if s.found -%}{%- elif j > 2 -%}{%- set s.found = true -%}{%- else -%}{%- set s.n = j -%}"
            "{%- endif -%}{%- endfor -%}",
            True,
        ),
        (
            "{%- for j in x -%}{%- if not s.found -%}{%- set s.found = j > 2 -%}{%- endif -%}{%- set s.n = j -%}{%- endfor -%}",
            False,
        ),
        ("{%- for j in x -%}{%- if not s.found -%}a{%- set s.found = j > 2 -%}{%- else -%}b{%- endif -%}{%- endfor -%}", False),
        ("{%- for j in x -%}{%- if not s.found -%}a{%- set s.found = j > 2 -%}{%- endif %} {% endfor -%}", False),
        ("{%- for s in y -%}{%- if not s.found -%}a{{ s.n }}{%- endif -%}{%- endfor -%}", False),
        ("{%- for j in x -%}{%- if not loop.first -%}{{ j }}{%- endif -%}{%- endfor -%}", False),
        ("{%- for j in x -%}{%- if not f(j) -%}{{ j }}{%- endif -%}{%- endfor -%}", False),
    ],
    ids=["not found", "found", "more than a condition", "otherwise", "a space", "another variable", "the loop's own", "a call"],
)
def test_a_search_ends_where_its_further_rounds_would_do_nothing(loop: str, ends: bool) -> None:
    source = f"{STATE}{loop}|{{{{ s.n }}}}{{{{ s.found }}}}"
    environment = template_environment()
    tree = environment.parse(source)
    end_searches(tree)
    assert any(True for _ in tree.find_all(nodes.Break)) is ends
    values = {"x": range(9), "y": [{"found": n % 2, "n": n} for n in range(5)], "f": lambda j: j > 4}
    assert environment.compile_template(source).render(values) == environment.from_string(source).render(values)


def test_a_search_stops_asking_once_it_has_what_it_looks_for() -> None:
    rounds: list[int] = []

    def counted() -> object:
        for number in range(1000):
            rounds.append(number)
            yield number

    source = STATE + "{%- for j in x -%}{%- if not s.found -%}{%- set s.found = j > 2 -%}{%- endif -%}{%- endfor -%}"
    template_environment().compile_template(source).render(x=counted())
    assert len(rounds) < 10
