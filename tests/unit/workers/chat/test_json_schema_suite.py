"""The JSON-Schema-Test-Suite: no grammar lets through what its schema forbids, and few schemas are refused."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batch.errors import BadRequest
from batch.workers.chat.grammar.lark import Lark
from batch.workers.chat.grammar.matcher import Matcher, Vocabulary
from batch.workers.chat.grammar.schema.schema_reader import SchemaReader
from batch.workers.chat.grammar.schema.schema_writer import SchemaWriter
from batch.workers.chat.grammar.strings.string_terminals import StringProbe
from batch.workers.chat.grammar.value_syntax import JsonSyntax

END = 256
BYTES = Vocabulary([*(bytes([code]) for code in range(END)), b"<end>"], [END], {"<end>": END})
PROBE = StringProbe()
DIALECTS = {
    "draft4": "http://json-schema.org/draft-04/schema#",
    "draft6": "http://json-schema.org/draft-06/schema#",
    "draft7": "http://json-schema.org/draft-07/schema#",
}
"""What the cases of older drafts leave out."""
MAX_REFUSED = {"draft4": 30, "draft6": 35, "draft7": 40, "draft2019-09": 60, "draft2020-12": 60}
"""Groups of cases whose schema is refused: references to other documents, schemas without any value, uniqueItems of
anything, dynamic references that depend on the way to them."""


QUICK_DRAFTS = {"draft7", "draft2020-12"}
"""Those that most schemas are of; CI goes through the others."""


def writings(value: Any) -> Iterator[str]:
    """Texts of a value, with its members in several orders: a grammar knows one."""
    match value:
        case dict():
            for members in itertools.permutations(value.items()):
                for texts in itertools.product(*(itertools.islice(writings(v), 6) for _, v in members)):
                    pairs = zip(members, texts, strict=True)
                    yield "{" + ",".join(f"{json.dumps(k, ensure_ascii=False)}:{text}" for (k, _), text in pairs) + "}"
        case list():
            for texts in itertools.product(*(itertools.islice(writings(v), 6) for v in value)):
                yield "[" + ",".join(texts) + "]"
        case _:
            yield json.dumps(value, ensure_ascii=False)


def takes(grammar: str, text: str) -> bool:
    follower = Matcher(BYTES, grammar, "json_schema")
    for byte in text.encode():
        if not follower.allows(byte):
            return False
        follower.accept(byte)
    return follower.is_complete


@pytest.mark.parametrize(
    "draft", [draft if draft in QUICK_DRAFTS else pytest.param(draft, marks=pytest.mark.slow) for draft in MAX_REFUSED]
)
def test_no_grammar_lets_through_what_its_schema_forbids(json_schema_suite: Path, draft: str) -> None:
    folder = json_schema_suite / draft
    files = [*sorted(folder.glob("*.json")), *sorted(folder.glob("optional/format/*.json"))]
    assert len(files) > 30
    count: Counter[str] = Counter()
    wrong = []
    for path in files:
        for group in json.loads(path.read_text()):
            lark, document = Lark("json_schema"), group["schema"]
            if isinstance(document, dict) and draft in DIALECTS:
                document = {"$schema": DIALECTS[draft], **document}
            reader = SchemaReader(document, "json_schema", PROBE)
            try:
                grammar = lark.text(SchemaWriter(reader, JsonSyntax(lark)).write(reader.root))
            except BadRequest:
                count["refused schemas"] += 1
                continue
            count["schemas"] += 1
            for case in group["tests"]:
                is_taken = any(takes(grammar, text) for text in itertools.islice(writings(case["data"]), 24))
                count[f"{'valid' if case['valid'] else 'forbidden'} and {'taken' if is_taken else 'not'}"] += 1
                if is_taken and not case["valid"]:
                    wrong.append(f"{path.stem}: {group['description']}: {case['description']}")
    assert not wrong
    assert count["refused schemas"] <= MAX_REFUSED[draft], count
    assert count["valid and taken"] > 0.6 * count["valid and not"], count
