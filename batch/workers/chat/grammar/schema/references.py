"""Where a JSON Schema's references lead: `$ref`, `$id` and anchors, by the `referencing` package."""

from __future__ import annotations

from typing import Any

from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from batch.workers.chat.grammar.schema.shapes import References


def count_dynamic_anchors(document: Any) -> int:
    """How many places a dynamic reference may mean."""
    count, waiting = 0, [document]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            count += "$dynamicAnchor" in node or node.get("$recursiveAnchor") is True
        waiting += node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return count


def references_of(document: Any) -> References:
    """Looks references up in a document, whatever its `$schema` and `$id` are worth."""
    try:
        resource = Resource.from_contents(document, default_specification=DRAFT202012)
    except Exception:  # an unknown $schema
        resource = DRAFT202012.create_resource(document)
    registry: Registry[Any] = Registry()
    try:
        base = resource.id() or ""
        references: References = registry.with_resource(base, resource).resolver(base)
    except Exception:  # an $id that is no address
        references = registry.with_resource("", resource).resolver("")
    return references


def references_inside(references: References, schema: Any) -> References:
    """Looks references up from inside a schema that may have an `$id` of its own."""
    try:
        return references.in_subresource(Resource.from_contents(schema, default_specification=DRAFT202012))
    except Exception:  # an $id that is no address
        return references
