"""The Containerfile, held against what a linter of such files asks for: it can be built here only where a builder is."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

import pytest

from batch.settings import Settings
from paths import ROOT

KNOWN = {
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "RUN",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
}


class Instruction(NamedTuple):
    word: str
    value: str


def instructions(text: str) -> list[Instruction]:
    """As a builder reads them: comments gone, lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Instruction(*line.split(None, 1)) for line in joined.splitlines()]


@pytest.fixture(scope="module")
def containerfile() -> list[Instruction]:
    return instructions((ROOT / "Containerfile").read_text("utf-8"))


def values(containerfile: list[Instruction], word: str) -> list[str]:
    return [instruction.value for instruction in containerfile if instruction.word == word]


def test_it_is_made_of_instructions_that_builders_know(containerfile: list[Instruction]) -> None:
    assert {instruction.word for instruction in containerfile} <= KNOWN  # ADD, for one, fetches from anywhere
    assert containerfile[0].word == "FROM"
    for word in ("CMD", "ENTRYPOINT"):
        assert all(isinstance(json.loads(value), list) for value in values(containerfile, word)), "no shell stands in between"


def test_every_base_image_has_its_whole_name_and_version(containerfile: list[Instruction]) -> None:
    bases = values(containerfile, "FROM")
    assert len(bases) == 2
    for base in bases:
        assert re.fullmatch(r"docker\.io/library/python:3\.\d+\.\d+-slim-\w+( AS \w+)?", base), base
    assert len({base.split()[0] for base in bases}) == 1, "the environment is moved between like images"


def test_it_runs_as_nobody_special(containerfile: list[Instruction]) -> None:
    last = max(place for place, instruction in enumerate(containerfile) if instruction.word == "FROM")
    users = values(containerfile[last:], "USER")
    assert users == ["batch"] and any("useradd" in value and "batch" in value for value in values(containerfile[last:], "RUN"))


def test_no_package_list_and_no_recommended_package_stays_in_a_layer(containerfile: list[Instruction]) -> None:
    for value in values(containerfile, "RUN"):
        if "apt-get install" in value:
            assert "--no-install-recommends" in value and "rm -rf /var/lib/apt/lists/*" in value and "apt-get update" in value


def test_what_is_copied_is_there_and_let_through(containerfile: list[Instruction]) -> None:
    lines = (ROOT / ".containerignore").read_text("utf-8").splitlines()
    assert lines[0] == "*", "nothing goes to the builder but what is named"
    copied = [word for value in values(containerfile, "COPY") if "--from" not in value for word in value.split()[:-1]]
    assert {"batch", "setup", "requirements.lock"} <= set(copied)
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in lines, f"{name} is left out by .containerignore"


def test_its_variables_are_settings(containerfile: list[Instruction]) -> None:
    names = [name for value in values(containerfile, "ENV") for name in re.findall(r"(BATCH_\w+)=", value)]
    assert names
    assert all(name.removeprefix("BATCH_").lower() in Settings.model_fields for name in names), names
