"""What every table of settings does with the values it is given, before their own bounds are checked."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

MAX_PATH_CHARS = 4096
MAX_LIST_ENTRIES = 1000
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
"""All but tab and newline, which a prompt may hold."""


def expand_home(text: str) -> str:
    """The path with a leading `~` or `~user` replaced by that user's home folder; ValueError where there is none."""
    expanded = os.path.expanduser(text)
    if text.startswith("~") and expanded == text:
        raise ValueError(f"it begins with {text.split('/')[0]}, whose home folder is not known here")
    return expanded


PathOrName = Annotated[str, Field(max_length=MAX_PATH_CHARS), AfterValidator(expand_home), "a name or a path"]
"""A path, in which `~` is the user's home folder, or a name of the catalogue."""


def expand_path(path: Path) -> Path:
    """The path without a leading `~`; ValueError where it is longer than any system takes."""
    if len(str(path)) > MAX_PATH_CHARS:
        raise ValueError(f"it is longer than {MAX_PATH_CHARS} characters")
    return Path(expand_home(str(path)))


UserPath = Annotated[Path, AfterValidator(expand_path)]
"""A path in which `~` is the user's home folder."""


_DURATION = re.compile(r"(-?[0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d)?")
_UNIT_S = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def read_duration(value: object) -> object:
    """Seconds of a text as `10m`, `1h` or `90`; anything else as it is, for others to judge."""
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        return float(match[1]) * _UNIT_S[match[2] or ""]
    return value


class Section(BaseModel):
    """A frozen table of settings that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=False)

    @field_validator("*", mode="before")
    @classmethod
    def _check_given(cls, value: Any, info: ValidationInfo) -> Any:
        """Split `a,b` for a list; refuse `true` for a number, and text that is not UTF-8 or holds control characters."""
        assert info.field_name is not None
        annotation = cls.model_fields[info.field_name].annotation
        if isinstance(value, bool) and annotation in (int, float):
            raise ValueError("it is true or false")
        if isinstance(value, str):
            check_text(value)
            if get_origin(annotation) is tuple:
                value = [part for part in (piece.strip() for piece in value.split(",")) if part]
        if isinstance(value, (list, tuple)) and len(value) > MAX_LIST_ENTRIES:
            raise ValueError(f"it has more than {MAX_LIST_ENTRIES} entries")
        return value


def check_text(text: str) -> None:
    """Raise ValueError where a text cannot be written into JSON, or is no path or word that people could have meant."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("it is not UTF-8") from None
    if CONTROL_CHARACTERS.search(text):
        raise ValueError("it holds control characters")
