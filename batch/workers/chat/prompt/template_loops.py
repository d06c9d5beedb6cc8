"""Chat templates that look through all messages for each one: their searches end once they have what they look for.

A template without `break` goes on to the end with a flag: `{% for j in … %}{% if not state.found %}…{% endif %}{% endfor %}`.
With thousands of messages those empty rounds take minutes.
"""

from __future__ import annotations

from jinja2 import nodes


def end_searches(template: nodes.Template) -> None:
    """Have loops whose whole body depends on a flag end with it. What is rendered stays the same."""
    for loop in template.find_all(nodes.For):
        # With another statement, or text, beside the condition a round would do something.
        if len(loop.body) != 1 or loop.else_ or loop.test is not None or loop.recursive:
            continue
        condition = loop.body[0]
        if not isinstance(condition, nodes.If):
            continue
        assigned = {name.name for name in loop.target.find_all(nodes.Name)} | {"loop"}
        if isinstance(loop.target, nodes.Name):
            assigned.add(loop.target.name)
        test, is_negated = condition.test, False
        if isinstance(test, nodes.Not):
            test, is_negated = test.node, True
        if not _is_flag(test, assigned):
            continue
        # Nothing runs any more that could change the flag, so every further round would do nothing too.
        end = nodes.Break(lineno=condition.lineno)
        if loop.environment is not None:
            end.set_environment(loop.environment)
        if is_negated and not condition.elif_ and not condition.else_:
            condition.else_ = [end]
        elif not is_negated and not condition.body:
            condition.body = [end]


def _is_flag(node: nodes.Node, assigned: set[str]) -> bool:
    """Whether it is an attribute of a variable, `state.found`, that no round sets anew."""
    return isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name) and node.node.name not in assigned
