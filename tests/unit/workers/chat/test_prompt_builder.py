"""What stands behind the last message, which alone says whether an answer begins inside a thought."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from batch.errors import BadRequest
from batch.payloads.chat import ChatPayload
from batch.workers.chat.dialects.dialect import for_template
from batch.workers.chat.prompt.builder import PromptMaker, PromptText
from batch.workers.chat.prompt.template import ChatTemplate
from grammar_setup import tiny_model

THINK = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]"
    "{% if enable_thinking %}<think>\n{% endif %}{% endif %}{# </think> #}"
)


def prompt(messages: list[dict[str, Any]], **request: Any) -> PromptText:
    maker = PromptMaker(tiny_model(), ChatTemplate(THINK), for_template(THINK))
    return maker.chat(msgspec.convert({"messages": messages, **request}, ChatPayload))


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "What is <think> ?"}],
        [{"role": "system", "content": "Think in <think>."}, {"role": "user", "content": "Hello"}],
        [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "<think>hm"},
            {"role": "user", "content": "And </think> ?"},
        ],
    ],
)
@pytest.mark.parametrize("thinking", [True, False])
def test_what_messages_say_of_markers_opens_and_closes_no_thought(messages: list[dict[str, Any]], thinking: bool) -> None:
    made = prompt(messages, enable_thinking=thinking)
    assert made.tail == ("[assistant]<think>\n" if thinking else "[assistant]")


def test_a_prefill_never_lands_inside_a_thought() -> None:
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Once"}]
    made = prompt(messages, enable_thinking=True)
    assert made.text.endswith("[assistant]<think>\n</think>Once")
    assert made.tail == "[assistant]<think>\n</think>" and made.prefill == "Once"


def test_messages_that_a_template_takes_too_long_to_render_are_refused_and_not_waited_for() -> None:
    source = "{% for m in messages %}{% for n in messages %}{{ m.role }}{{ n.content }}{% endfor %}{% endfor %}"
    template = ChatTemplate(source)
    template.max_rendering_s = 0.2
    with pytest.raises(BadRequest, match="messages take longer"):
        template.render([{"role": "user", "content": "x"}] * 3000)
    assert "x" in template.render([{"role": "user", "content": "x"}])


def test_a_system_message_in_parts_is_text_to_a_template_that_knows_parts_of_users_only() -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
        "{% elif m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text }}{% endfor %}"
        "{% endif %}{% endfor %}"
    )
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    made = ChatTemplate(source).render([{"role": "system", "content": parts}, {"role": "user", "content": parts}])
    assert made == "one\ntwoonetwo"
