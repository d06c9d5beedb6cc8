"""What a file of a model hub was when this machine fetched it first, so that a later pull gets the same or is refused.

Pins lie in `.pins` in the models folder, one small JSON file for each file of a model.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from batch.errors import ModelProblem

PINS_FOLDER = ".pins"


class Pin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a repository as it was fetched first."""

    repo: str
    file: str
    revision: str
    """The commit it was fetched from."""
    sha256: str
    size: int


def pin_path(models: Path, model: str, role: str) -> Path:
    """Where the pin of a model's file lies."""
    return models / PINS_FOLDER / f"{model}.{role}.json"


def read_pin(models: Path, model: str, role: str) -> Pin | None:
    """The pin of a model's file, None before its first fetch; raises ModelProblem where it is damaged."""
    path = pin_path(models, model, role)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Pin)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise ModelProblem(f"{path} cannot be read ({error}): run `batch models pull {model} --repin`.") from None


def write_pin(models: Path, model: str, role: str, pin: Pin) -> None:
    """Keep a pin, over an older one; raises OSError."""
    path = pin_path(models, model, role)
    path.parent.mkdir(exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(pin)) + b"\n")
    os.replace(draft, path)


def forget_pins(models: Path, model: str, roles: tuple[str, ...]) -> None:
    """Let the next pull of a model take what its hub lists then."""
    for role in roles:
        pin_path(models, model, role).unlink(missing_ok=True)
