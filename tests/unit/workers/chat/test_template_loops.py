"""Searches of chat templates end with their flag, and only where that changes nothing."""

from __future__ import annotations

import pytest
from jinja2 import nodes

from batch.errors import BadRequest
from batch.workers.chat.dialects.dialect import for_template
from batch.workers.chat.prompt import template_environment as template_environment_module
from batch.workers.chat.prompt.template import ChatTemplate
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


ENDLESS = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "macro": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "power": "{{ 10 ** (10 ** 9) % 7 }}",
    "product": "{% set s = namespace(n=9) %}{% for i in range(60) %}{% set s.n = s.n * s.n %}{% endfor %}",
    "text": "{{ ('x' * 2000000000)|length }}",
    "list": "{{ (2000000000 * [1])|length }}",
}
LONG = "{% for m in messages %}{{ '<y>' * 500000 if m.role == 'assistant' }}<s>{{ m.content }}</s>{% endfor %}"


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS)
def test_a_template_that_would_go_on_for_ever_is_refused_and_its_model_loads(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_environment_module, "MAX_PROBING_S", 0.02)
    template = ChatTemplate(source)
    template.max_rendering_s = 0.1
    with pytest.raises(BadRequest):
        template.render([{"role": "user", "content": "a"}])
    assert for_template(source, template.probe).calls is None


def test_arguments_and_products_of_templates_are_what_they_were() -> None:
    source = "{% macro f(context, obj=1, self=2) %}{{ context }}{{ obj }}{{ self }}{% endmacro %}"
    source += "{{ f(context=3, obj='-' * 3) }}{{ 2 * 3 }}{{ 2 ** 3 }}{{ 2 ** -1 }}{{ 1.5 * 2 }}"
    source += "{% for i in 'ab' %}{{ loop.length }}{% endfor %}"
    assert ChatTemplate(source).render([{"role": "user", "content": "a"}]) == "3---2680.53.022"


def test_a_template_that_makes_pages_of_a_word_is_not_looked_through() -> None:
    template = ChatTemplate(LONG)
    assert for_template(LONG, template.probe).name == "plain"
