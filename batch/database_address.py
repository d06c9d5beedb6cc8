"""Where a home's jobs are kept: the file in its state folder, or a PostgreSQL database by its address.

Read by itself, without the other settings, by commands that have no time for those. An address may hold a password: it is
never shown, logged, or taken from the command line.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from batch.errors import SettingsProblem

SCHEMES = ("postgresql", "postgres")
FILE = "sqlite"
"""What is named to return to the file."""
IN_DATABASE = "postgres"
"""Where payloads are unless the setting names a bucket."""
_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._=-]+)*")
_SECRET_PARAMETER = re.compile(r"([?&][a-z_]*(?:password|secret)=)[^&]*")
_REMEMBERED = "database_address"
"""In the state folder: the address that `batch serve --database` was started with last."""


def check_address(text: str) -> str:
    """The address; ValueError where it is none."""
    if text in ("", FILE):
        return text
    try:
        parts = urlsplit(text)
    except ValueError:  # its text may hold the password
        raise ValueError("it is no address: special characters are percent-encoded") from None
    if parts.scheme not in SCHEMES:
        raise ValueError("it is no address of a database")
    return text


def check_payload_place(text: str) -> str:
    """Where payloads go; ValueError where it is neither the database nor a bucket. A bucket's address holds no secret."""
    if text != IN_DATABASE and not _BUCKET.fullmatch(text):
        raise ValueError("it is no address of a bucket")
    return text


def has_password(address: str) -> bool:
    """Whether an address holds a secret."""
    return without_password(address) != address


def without_password(address: str) -> str:
    """The address as people may see it. What somebody forgot to encode of a password is not shown either: of
    `user:pass/word@host` and the like nothing but the user is left."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        return address
    rest = _SECRET_PARAMETER.sub(r"\1***", rest)
    head = rest.partition("?")[0]
    if "@" not in head and ":" in head and "@" in rest:
        head = rest
    user, at, place = head.rpartition("@")
    name, colon, _ = user.partition(":")
    return f"{scheme}://{name}{colon and ':***'}{at}{place}{rest[len(head) :]}"


def remembered_address(state_dir: Path) -> str:
    """The address that the home's service was started with on the command line; empty where there is none."""
    try:
        return (state_dir / _REMEMBERED).read_text("utf-8").strip()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise SettingsProblem(f"{state_dir / _REMEMBERED} cannot be read ({error}): remove it.") from None


def remember_address(state_dir: Path, address: str) -> None:
    """Let the home's other commands know an address that a flag named; `FILE` forgets the last one."""
    path = state_dir / _REMEMBERED
    if address == FILE:
        path.unlink(missing_ok=True)
    elif address != remembered_address(state_dir):
        partial = path.with_name(f".{_REMEMBERED}")
        with partial.open("w", encoding="utf-8") as file:
            file.write(address)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)


def address_of(home: Path) -> Path | str:
    """What `open_store` takes for a home, as its settings say, without reading the others: the environment, batch.toml, and
    what its service was last started with. Raises SettingsProblem."""
    state_dir = home / ".batch"
    address = os.environ.get("BATCH_DATABASE") or _address_in_toml(home / "batch.toml") or remembered_address(state_dir)
    return state_dir / "batch.db" if address in ("", FILE) else address


def _address_in_toml(file: Path) -> str:
    try:
        data = file.read_bytes()
        if b"database" not in data:
            return ""
        import tomllib  # here, as most homes need it not

        address = tomllib.loads(data.decode()).get("database", "")
    except (OSError, ValueError):  # whoever reads the settings says what is wrong with it
        return ""
    return address if isinstance(address, str) else ""
