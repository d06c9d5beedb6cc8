"""Secrets of endpoints where services share a database: any of them may come to send an endpoint's events."""

from __future__ import annotations

from pathlib import Path

import msgspec

from batch.notifications.signing import SecretFiles, SigningSecrets, new_secret
from batch.queue.store import Store


class SharedSecrets(SecretFiles):
    """A row an endpoint, which workers have no right to read. Blocking; every method raises StoreAway, DiskFull."""

    def __init__(self, store: Store, folder: Path) -> None:
        """`folder`: where this home kept secrets in files before."""
        super().__init__(folder)
        self._store = store

    def read(self, target: str) -> SigningSecrets | None:
        """An endpoint's secrets; None where it has none."""
        rows = self._store.read("select secrets from notification_secret where target=?", (target,))
        return msgspec.json.decode(rows[0][0], type=SigningSecrets) if rows else super().read(target)

    def ensure(self, target: str) -> SigningSecrets:
        """An endpoint's secrets, the same for all who ask at once; made where it has none."""
        secrets = super().read(target) or SigningSecrets(new_secret())
        with self._store.transaction(durable=True) as transaction:
            transaction.execute(
                "insert into notification_secret values (?,?) on conflict (target) do nothing", (target, _text(secrets))
            )
        return self.read(target) or secrets

    def remove(self, target: str) -> None:
        """Forget an endpoint's secrets."""
        with self._store.transaction() as transaction:
            transaction.execute("delete from notification_secret where target=?", (target,))
        super().remove(target)

    def _write(self, target: str, secret: SigningSecrets) -> SigningSecrets:
        with self._store.transaction(durable=True) as transaction:
            transaction.execute(
                "insert into notification_secret values (?,?) on conflict (target) do update set secrets=excluded.secrets",
                (target, _text(secret)),
            )
        return secret


def open_secrets(store: Store, folder: Path) -> SecretFiles:
    """Where a home's endpoints have their secrets: in files of a folder, unless others share its database."""
    return SharedSecrets(store, folder) if store.is_shared else SecretFiles(folder)


def _text(secrets: SigningSecrets) -> str:
    return msgspec.json.encode(secrets).decode()
