"""A JSON Schema read place by place: everything that holds there is put together, alternatives are told apart.

At each place the reader holds a few branches. `$ref` and allOf add to a branch; anyOf, oneOf, if, dependencies and what
`not` comes to split it; the other keywords say something about one type. Branches that contradict themselves go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NoReturn

from batch.errors import BadRequest
from batch.workers.chat.grammar.schema import negation
from batch.workers.chat.grammar.schema.equivalents import equivalent_of_const, equivalent_of_nullable
from batch.workers.chat.grammar.schema.facts import Facts
from batch.workers.chat.grammar.schema.keywords import ASSERTIONS, SCALARS, NotEnforced
from batch.workers.chat.grammar.schema.number_terminals import is_enforceable
from batch.workers.chat.grammar.schema.possibility import Possibility
from batch.workers.chat.grammar.schema.references import count_dynamic_anchors, references_inside, references_of
from batch.workers.chat.grammar.schema.shapes import (
    Objects,
    Part,
    PartKey,
    Parts,
    Shape,
    StringRule,
    Strings,
    is_possible,
)
from batch.workers.chat.grammar.strings.string_terminals import StringProbe

MAX_STEPS = 20_000
"""Schemas looked at in all branches, and what copying a branch costs."""
MAX_TRAIL = 64
"""References that lead to one another without going down into a value."""
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_ANNOTATIONS = frozenset({"title", "description", "default", "examples", "$defs", "definitions", "$schema", "$id", "$comment"})


@dataclass(slots=True)
class _Branch:
    facts: Facts
    pending: list[tuple[Part, int]]
    """Schemas that hold too, from which keyword on they are not read yet, the next one last."""
    choices: list[list[list[Part]]] = field(default_factory=list)
    """Of each the schemas of one option hold too."""
    read_parts: set[PartKey] = field(default_factory=set)

    def choose(self, option: list[Part]) -> _Branch:
        """This branch with one option of its first choice."""
        return _Branch(self.facts.copy(), [(part, 0) for part in option[::-1]], self.choices[1:], set(self.read_parts))

    def add(self, *parts: Part) -> None:
        """These schemas hold too: they are read next."""
        self.pending += [(part, 0) for part in parts[::-1]]


class SchemaReader:
    """Reads one document."""

    def __init__(self, document: Any, field: str, probe: StringProbe, *, lenient: bool = False) -> None:
        """`field` names the request's field in errors.

        `lenient`: what no grammar can follow is left out and listed in `unenforced`, instead of being BadRequest.
        """
        self.field = field
        self.probe = probe
        self._lenient = lenient
        self._steps = 0
        self._shapes: dict[frozenset[PartKey], tuple[Shape, ...]] = {}
        self._own_schemas: list[Any] = []
        """Schemas that are not the document's own: kept, as they are told apart by their ids."""
        self._possibility = Possibility(self.shapes)
        self.unenforced: dict[str, None] = {}
        """What is left out, as paths."""
        dialect = document.get("$schema") if isinstance(document, dict) else None
        self._is_old = isinstance(dialect, str) and "/draft-0" in dialect
        """Before draft 2019-09 an `$id` beside a `$ref` meant nothing."""
        self._is_dynamic = count_dynamic_anchors(document) > 1
        self.root: Parts = (Part(document, references_of(document), field, trail=frozenset({id(document)})),)

    def shapes(self, parts: Parts) -> tuple[Shape, ...]:
        """What is allowed where all these schemas hold: alternatives, of one type each. Raises BadRequest."""
        key = frozenset(p.key for p in parts)
        if key not in self._shapes:
            self._shapes[key] = tuple(dict.fromkeys(self._alternatives(parts)))
        return self._shapes[key]

    def is_possible(self, parts: Parts) -> bool:
        """Whether any value is allowed where all these schemas hold."""
        return self._possibility.of(parts)

    def possible_shapes(self, parts: Parts) -> list[Shape]:
        """The alternatives of `shapes` of which there are values."""
        return self._possibility.possible(parts)

    def leave_out(self, where: str, keyword: str, why: str = "") -> None:
        """Raises BadRequest that names the keyword; when lenient, takes a note of it."""
        place = f"{where}.{keyword}" if keyword else where
        if not self._lenient:
            raise BadRequest(f"{place} {why or f'cannot be enforced: no grammar can follow {keyword!r} here'}."[:400])
        self.unenforced[place] = None

    def refuse(self, where: str, why: str) -> NoReturn:
        """Raises BadRequest that names a place."""
        raise BadRequest(f"{where} {why}."[:400])

    def _alternatives(self, parts: Parts) -> Iterator[Shape]:
        alone = parts[0].key if len(parts) == 1 else None
        branches = [_Branch(Facts(alone=alone), [(part, 0) for part in parts[::-1]])]
        while branches:
            branch = branches.pop()
            if not self._settle(branch):
                continue
            if branch.choices:
                self._spend(len(branch.choices[0]) * (1 + len(branch.read_parts) // 8))
                branches += [branch.choose(option) for option in reversed(branch.choices[0])]
                continue
            facts = branch.facts
            for kind in facts.kinds:
                if kind in facts.blocked:
                    self.leave_out(*facts.blocked[kind])
            if "number" in facts.kinds and is_possible(facts.number.shape) and not is_enforceable(facts.number.shape):
                self.leave_out(parts[0].where, "type")
            for shape in facts.shapes(self.probe):
                if isinstance(shape, Objects) and shape.names:
                    yield self._named(shape)
                elif not isinstance(shape, Strings) or self.probe.has_any(shape):
                    yield shape

    def name_shapes(self, names: Parts) -> tuple[Shape, ...]:
        """What these schemas allow of the names of members."""
        return self.shapes((*names, self._own(names[0], {"type": "string"})))

    def _named(self, shape: Objects) -> Objects:
        """The same, without a value for members that may not have their names."""

        def is_allowed(name: str) -> bool:
            return self.is_possible((*shape.names, self._own(shape.names[0], {SCALARS: [name]})))

        never = self._own(shape.names[0], False)
        members = tuple((name, parts if is_allowed(name) else (never,)) for name, parts in shape.members)
        return replace(shape, members=members)

    def _settle(self, branch: _Branch) -> bool:
        """Add what is pending to the branch; False when it contradicts itself."""
        while branch.pending:
            part, start = branch.pending.pop()
            if not start and part.key in branch.read_parts:
                continue
            branch.read_parts.add(part.key)
            self._spend(1)
            if isinstance(part.schema, bool):
                holds = part.schema != part.negated
            elif not isinstance(part.schema, dict):
                holds = self._misread(part.where, "must be an object or a boolean")
            else:
                holds = self._deny(branch, part) if part.negated else self._assert(branch, part, start)
            if not holds or not branch.facts.types:
                return False
        return True

    def _assert(self, branch: _Branch, part: Part, start: int) -> bool:
        schema, own = part.schema, part
        if ("$id" in schema or "id" in schema) and not (self._is_old and "$ref" in schema):
            part = replace(part, references=references_inside(part.references, schema))
        if schema.get("nullable") is True:
            branch.choices.append([[self._own(part, s)] for s in equivalent_of_nullable(schema)])
            return True
        for at, (keyword, value) in enumerate(islice(schema.items(), start, None), start + 1):
            if keyword in _REFERENCES or keyword == "allOf":
                # Members stand in the order in which the document names them, so what is brought in comes first.
                branch.pending.append((own, at))
            if keyword in _REFERENCES:
                self._refer(branch, part, keyword, value)
                return True
            if keyword in self._applicators:
                self._applicators[keyword](self, branch, part, value)
                if keyword == "allOf":
                    return True
            elif keyword in ASSERTIONS and not self._hold(branch, part, keyword, value):
                return False
        return True

    def _spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MAX_STEPS:
            self.refuse(self.field, "is too large to be turned into a grammar")

    def _hold(self, branch: _Branch, part: Part, keyword: str, value: Any) -> bool:
        try:
            for source in _expressions(keyword, value):
                self.probe.fits(StringRule("pattern", source, f"{part.where}.{keyword}"), "")
            return ASSERTIONS[keyword](branch.facts, part, value) is not False
        except NotEnforced:
            self.leave_out(part.where, keyword)
        except ValueError as problem:
            self._misread(f"{part.where}.{keyword}", str(problem))
        except BadRequest as problem:
            if not self._lenient:
                raise
            self.unenforced[problem.message] = None
        return True

    def _deny(self, branch: _Branch, part: Part) -> bool:
        schema = part.schema
        keyword = next(iter(schema), "")
        if len(schema) == 1 and keyword in _REFERENCES:
            self._refer(branch, part, keyword, schema[keyword], negated=True)
            return True
        if schema.get("nullable") is True:
            schema = {"anyOf": equivalent_of_nullable(schema)}
        options = negation.violations(schema)
        silent = replace(part, evaluates=False)
        branch.choices.append([[self._own(silent, s) for s in option] for option in options])
        return bool(options)

    def _refer(self, branch: _Branch, part: Part, keyword: str, reference: Any, *, negated: bool = False) -> None:
        if not isinstance(reference, str):
            self._misread(part.where, f"has a {keyword} that is not a string")
            return
        quoted = repr(reference[:80])
        if keyword != "$ref" and self._is_dynamic:
            self.leave_out(part.where, keyword)
            return
        try:
            target_schema = part.references.lookup(reference)
        except Exception:  # the library fails in many ways on documents that are not well formed
            self._misread(part.where, f"has a {keyword} ({quoted}) that leads nowhere")
            return
        if len(part.trail) > MAX_TRAIL:
            self._misread(part.where, f"leads through more than {MAX_TRAIL} references, one to the next")
            return
        if id(target_schema.contents) in part.trail:
            self._misread(part.where, f"refers to itself through {quoted} without an end")
            return
        trail = part.trail | {id(target_schema.contents)}
        where = f"{self.field} {reference[:80]}"
        target = Part(target_schema.contents, target_schema.resolver, where, negated, trail, part.evaluates)
        if branch.facts.alone == part.key and _ANNOTATIONS.issuperset(set(part.schema) - {keyword}):
            branch.facts.alone = target.key
        branch.add(target)

    def _all_of(self, branch: _Branch, part: Part, value: Any) -> None:
        branch.add(*(part.beside(s, f".allOf[{at}]") for at, s in enumerate(self._listed(part, "allOf", value))))

    def _any_of(self, branch: _Branch, part: Part, value: Any) -> None:
        branch.choices.append([[part.beside(s, f".anyOf[{i}]")] for i, s in enumerate(self._listed(part, "anyOf", value))])

    def _one_of(self, branch: _Branch, part: Part, value: Any) -> None:
        parts = [part.beside(s, f".oneOf[{at}]") for at, s in enumerate(self._listed(part, "oneOf", value))]
        options = []
        for at, one in enumerate(parts):
            rivals = [other for i, other in enumerate(parts) if i != at and self.is_possible((one, other))]
            options.append([one, *(other.denied() for other in rivals)])
        branch.choices.append(options)

    def _not(self, branch: _Branch, part: Part, value: Any) -> None:
        branch.add(part.beside(value, ".not").denied())

    def _if(self, branch: _Branch, part: Part, value: Any) -> None:
        schema, condition = part.schema, part.beside(value, ".if")
        then = [part.beside(schema["then"], ".then")] if "then" in schema else []
        otherwise = [part.beside(schema["else"], ".else")] if "else" in schema else []
        if then or otherwise:
            branch.choices.append([[condition, *then], [condition.denied(), *otherwise]])

    def _dependencies(self, branch: _Branch, part: Part, value: Any) -> None:
        if not isinstance(value, dict):
            self._misread(part.where, "has dependencies that are not an object")
            return
        branch.facts.hint("object")
        for name, then in value.items():
            required = then if isinstance(then, list) else []
            present = [self._own(part, {"required": [name, *required]})]
            if not isinstance(then, list):
                present.append(part.beside(then, f".dependentSchemas.{name}"))
            branch.choices.append([[self._own(part, {"properties": {name: False}})], present])

    def _const(self, branch: _Branch, part: Part, value: Any) -> None:
        self._enum(branch, part, [value])

    def _enum(self, branch: _Branch, part: Part, value: Any) -> None:
        if not isinstance(value, list):
            self._misread(f"{part.where}.enum", "must be a list")
            return
        options = [[self._own(part, equivalent_of_const(v))] for v in value if isinstance(v, dict | list)]
        scalars = [v for v in value if not isinstance(v, dict | list)]
        if scalars:
            options.insert(0, [self._own(part, {SCALARS: scalars})])
        branch.choices.append(options)

    _applicators: Mapping[str, Callable[[SchemaReader, _Branch, Part, Any], None]] = {
        "allOf": _all_of,
        "anyOf": _any_of,
        "oneOf": _one_of,
        "not": _not,
        "if": _if,
        "dependentRequired": _dependencies,
        "dependentSchemas": _dependencies,
        "dependencies": _dependencies,
        "const": _const,
        "enum": _enum,
    }

    def _own(self, part: Part, schema: Any) -> Part:
        """A schema that says with other words what one at this place says."""
        self._own_schemas.append(schema)
        return part.beside(schema)

    def _listed(self, part: Part, keyword: str, value: Any) -> list[Any]:
        if isinstance(value, list) and value:
            return value
        self._misread(f"{part.where}.{keyword}", "must be a list that is not empty")
        return [True]

    def _misread(self, where: str, why: str) -> bool:
        """Raises BadRequest; when lenient, takes a note, and True: the schema is left out."""
        self.leave_out(where, "", why)
        return True


def _expressions(keyword: str, value: Any) -> list[str]:
    """The regular expressions that a keyword holds."""
    match keyword, value:
        case "pattern", str():
            return [value]
        case "patternProperties", dict():
            return list(value)
        case negation.UNFIT, ["pattern", source]:
            return [source]
    return []
