"""Every setting as people read about it: key, values, default, variable and meaning, taken from the code itself."""

from __future__ import annotations

import ast
import functools
import inspect
import json
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Le, MaxLen
from pydantic.fields import FieldInfo

from batch.errors import NotFound
from batch.settings import keys, named_models, settings
from batch.settings.named_models import NAMED_MODELS, NamedVlmSettings
from batch.settings.settings import HIDDEN_KEYS, Settings
from batch.settings.sources import variable_of
from batch.settings.value_types import Section

PAGE_HEAD = """\
# Settings

Every setting, as `batch config --help KEY` tells it too. This page is made from `batch/settings/`: after a change there run
`make docs-pages`.

A setting stands in `batch.toml` in the home folder (`[vlm]`, then `port = 9000`), in a variable (`BATCH_VLM__PORT=9000`), or
in a flag of `batch serve` where there is one; the later wins. Lists may be written as `a,b` in a variable; `~` in a path is
your home folder. `batch config` shows what is in effect and where each value came from. A wrong key or value is one sentence
that names it, and nothing starts.
"""


NAMED_MODELS_HEAD = """\
Further models by name, each with a queue and a worker process of its own. A request whose `model` is exactly NAME goes to it;
any other name means the kind's own model. Besides these keys a model takes those of its kind, as `context` of a vlm; its port
is that of its kind. See [several models](models.md)."""
_MODELS = "models"


@dataclass(frozen=True, slots=True)
class SettingEntry:
    """One setting for people."""

    key: str
    """Dotted, as `vlm.port`."""
    values: str
    """What it takes, as "a whole number from 0 to 65535"."""
    default: str
    """As TOML would spell it."""
    variable: str
    meaning: str

    def text(self) -> str:
        """The entry as `batch config --help KEY` prints it."""
        return (
            f"{self.key}\n  {self.meaning}\n\n"
            f"  takes     {self.values}\n  default   {self.default}\n  variable  {self.variable}\n"
        )


def entries() -> tuple[SettingEntry, ...]:
    """Every setting that people may set, in the order of the code."""
    return tuple(entry for _, group in groups() for entry in group)


def groups() -> Iterator[tuple[str, tuple[SettingEntry, ...]]]:
    """(name of the table in batch.toml, its settings); the first name is empty: keys outside any table."""
    top = [
        name for name, field in Settings.model_fields.items() if not _is_section(field) and name not in (*HIDDEN_KEYS, _MODELS)
    ]
    yield "", tuple(_entry(Settings, "", name) for name in top)
    for name, field in Settings.model_fields.items():
        if _is_section(field):
            section = field.annotation
            assert isinstance(section, type) and issubclass(section, Section)
            yield name, tuple(_entry(section, f"{name}.", leaf) for leaf in section.model_fields)
    yield (
        f"{_MODELS}.NAME",
        tuple(_entry(NamedVlmSettings, f"{_MODELS}.NAME.", leaf) for leaf in ("kind", "model", "keep_alive")),
    )


def entry_of(key: str) -> SettingEntry:
    """The setting of that dotted key; raises NotFound."""
    for entry in entries():
        if entry.key == key:
            return entry
    raise NotFound(f"There is no setting {key}: see `batch config`.")


def page() -> str:
    """The whole of docs/settings.md."""
    parts = [PAGE_HEAD]
    for name, group in groups():
        if name.startswith(_MODELS):
            about = NAMED_MODELS_HEAD
        else:
            about = " ".join((Settings.model_fields[name].annotation.__doc__ or "").split()) if name else ""
        parts.append(f"\n## [{name}]\n\n{about}\n" if name else "\n## Outside any table\n")
        parts.append("\n| key | takes | default | variable | meaning |\n|---|---|---|---|---|\n")
        for entry in group:
            cells = (f"`{entry.key}`", entry.values, f"`{entry.default}`", f"`{entry.variable}`", entry.meaning)
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return "".join(parts)


def describe_values(key: str) -> str:
    """What a setting takes, in words, to follow "must be"; works for hidden keys and whole tables too."""
    *tables, leaf = key.split(".")
    owner: Any = Settings
    if tables[:1] == ["models"]:
        return _named_model_values(leaf, is_model=len(tables) == 1)
    if not tables and leaf == "models":
        return "a table of models by name"
    for table in tables:
        owner = owner.model_fields[table].annotation
    field: FieldInfo = owner.model_fields[leaf]
    return "a table of settings" if _is_section(field) else _values(field)


def _named_model_values(leaf: str, *, is_model: bool) -> str:
    """What a model by name takes, or one of its settings."""
    if is_model:
        return f"a table of settings with a kind ({', '.join(NAMED_MODELS)}) and a model"
    owners = [owner for owner in NAMED_MODELS.values() if leaf in owner.model_fields]
    return _values(owners[0].model_fields[leaf]) if owners else "a setting of its kind of model"


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, Section)


def _entry(owner: type[Section], prefix: str, name: str) -> SettingEntry:
    field = owner.model_fields[name]
    key = prefix + name
    return SettingEntry(key, _values(field), _default(name, field), variable_of(key), _meanings(owner)[name])


def _default(name: str, field: FieldInfo) -> str:
    if name == "models_dir":
        return "~/.cache/batch/models"
    default = field.default
    if field.is_required():
        return "none"
    return json.dumps(str(default) if isinstance(default, Path) else default, ensure_ascii=False)


def _values(field: FieldInfo) -> str:
    kind = field.annotation
    for words in field.metadata:
        if isinstance(words, str):  # what the type's own declaration says
            return words
    low = next((bound.ge for bound in field.metadata if isinstance(bound, Ge)), None)
    high = next((bound.le for bound in field.metadata if isinstance(bound, Le)), None)
    longest = next((bound.max_length for bound in field.metadata if isinstance(bound, MaxLen)), None)
    if kind is bool:
        return "true or false"
    if kind is int:
        return f"a whole number from {low} to {high}"
    if kind is float:
        return f"a number from {low} to {high:g}" if isinstance(high, float) else f"a number from {low} to {high}"
    if kind is Path:
        return "a path"
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        return f"a list of {', '.join(get_args(item))}" if get_origin(item) is Literal else "a list of texts"
    return f"a text of at most {longest} characters"


@functools.cache
def _sources() -> dict[str, dict[str, str]]:
    """The sentence below each field, by class and field; Python itself forgets it."""
    classes: dict[str, dict[str, str]] = {}
    for module in (keys, named_models, settings):
        classes |= _sentences(module)
    return classes


def _sentences(module: types.ModuleType) -> dict[str, dict[str, str]]:
    sentences: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        fields = sentences.setdefault(node.name, {})
        for field, after in zip(node.body, node.body[1:], strict=False):
            is_field = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if is_field and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                assert isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
                fields[field.target.id] = " ".join(str(after.value.value).split())
    return sentences


def _meanings(owner: type[Section]) -> dict[str, str]:
    """A class's sentences, with those of the classes it derives from."""
    meanings: dict[str, str] = {}
    for cls in reversed(owner.__mro__):
        meanings |= _sources().get(cls.__name__, {})
    return meanings
