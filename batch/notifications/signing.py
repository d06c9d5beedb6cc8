"""Standard Webhooks: secrets, kept in files that only the service's user may read, and signatures made with them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
import time
from pathlib import Path

import msgspec

from batch.errors import DiskFull

SECRET_PREFIX = "whsec_"
SECRET_BYTES = 32
OLD_SECRET_S = 24 * 3600
"""How long a rotated secret goes on signing beside the new one, where that is wanted."""
_TARGET_ID = re.compile(r"[A-Za-z0-9_]{1,80}")


class SigningSecrets(msgspec.Struct, frozen=True):
    """What an endpoint's events are signed with."""

    current: str
    old: str | None = None
    old_until: float = 0.0

    @property
    def hint(self) -> str:
        """The secret's last characters, for people who compare."""
        return f"{SECRET_PREFIX}…{self.current[-4:]}"

    def valid(self, now: float) -> list[str]:
        """The secrets to sign with, the newest first."""
        return [self.current, *([self.old] if self.old is not None and now < self.old_until else [])]


class SecretFiles:
    """One file an endpoint, mode 600. Blocking."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, target: str) -> SigningSecrets | None:
        """An endpoint's secrets; None where it has none, or its file is damaged. Raises DiskFull where it cannot be read."""
        path = self._path(target)
        try:
            return msgspec.json.decode(path.read_bytes(), type=SigningSecrets)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None
        except OSError as error:  # not for want of a secret: a new one would make the receiver refuse every event
            raise DiskFull(f"{path} cannot be read ({error.strerror}): look after its disk.") from error

    def ensure(self, target: str) -> SigningSecrets:
        """An endpoint's secrets, made where it has none. Raises DiskFull."""
        return self.read(target) or self._write(target, SigningSecrets(new_secret()))

    def rotate(self, target: str, *, keep_old: bool) -> SigningSecrets:
        """A new secret; the old one goes on signing for a day where it is to be kept. Raises DiskFull."""
        before = self.read(target)
        old = before.current if before is not None and keep_old else None
        return self._write(target, SigningSecrets(new_secret(), old, time.time() + OLD_SECRET_S if old else 0.0))

    def keep(self, target: str, text: str) -> None:
        """Take over an endpoint's secrets, as JSON, from where they were kept before. Raises DiskFull."""
        self._write(target, msgspec.json.decode(text, type=SigningSecrets))

    def remove(self, target: str) -> None:
        """Forget an endpoint's secrets."""
        self._path(target).unlink(missing_ok=True)

    def _path(self, target: str) -> Path:
        if not _TARGET_ID.fullmatch(target):
            raise ValueError(f"not an endpoint's id: {target[:80]!r}")
        return self._folder / f"{target}.json"

    def _write(self, target: str, secret: SigningSecrets) -> SigningSecrets:
        path = self._path(target)
        temporary = path.with_suffix(".tmp")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(msgspec.json.encode(secret))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            raise DiskFull(f"{path} cannot be written ({error.strerror}): look after its disk.") from error
        return secret


def new_secret() -> str:
    """A secret as Standard Webhooks has it: its prefix and padded base64 of random bytes."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def sign(keys: list[str], id: str, timestamp: int, body: bytes) -> str:
    """The webhook-signature header: one signature for each secret."""
    content = f"{id}.{timestamp}.".encode() + body
    signatures = []
    for key in keys:
        digest = hmac.new(base64.b64decode(key.removeprefix(SECRET_PREFIX)), content, hashlib.sha256).digest()
        signatures.append("v1," + base64.b64encode(digest).decode())
    return " ".join(signatures)
