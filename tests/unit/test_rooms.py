"""The house rules that a program can check: small files, small rooms, one name for one class, contracts that are types."""

from __future__ import annotations

import re
from collections import defaultdict

from paths import ROOT

MAX_LINES = 350
"""A file beyond this is more than one noun."""
MAX_ROOM_FILES = 12
MAX_UNTYPED_DICTS = 100
UNSPEAKING_NAMES = {"utils", "common", "helpers", "misc"}

FILES = sorted((ROOT / "batch").rglob("*.py"))
TEXTS = {file.relative_to(ROOT): file.read_text("utf-8") for file in FILES}


def test_no_file_is_longer_than_one_noun_needs() -> None:
    assert {str(file): lines for file, text in TEXTS.items() if (lines := text.count("\n")) > MAX_LINES} == {}


def test_no_room_holds_more_files_than_one_can_look_over() -> None:
    rooms: dict[str, int] = defaultdict(int)
    for file in TEXTS:
        rooms[str(file.parent)] += file.name != "__init__.py"
    assert {room: files for room, files in rooms.items() if files > MAX_ROOM_FILES} == {}


def test_the_name_of_every_file_says_something() -> None:
    assert [str(file) for file in TEXTS if file.stem in UNSPEAKING_NAMES] == []


def test_a_class_name_is_used_once() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for file, text in TEXTS.items():
        for name in re.findall(r"^ *class (\w+)(?:[(:\[])", text, re.MULTILINE):
            places[name].append(str(file))
    assert len(places) > 500
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_contracts_are_declared_types() -> None:
    untyped = {str(file): len(re.findall(r"\b(?:dict|Mapping)\[str, Any\]", text)) for file, text in TEXTS.items()}
    assert sum(untyped.values()) < MAX_UNTYPED_DICTS, sorted(untyped.items(), key=lambda pair: -pair[1])[:10]


def test_no_statement_numbers_its_parameters_which_python_3_14_refuses_for_sequences() -> None:
    assert [str(file) for file, text in TEXTS.items() if re.search(r"\?\d", text)] == []
