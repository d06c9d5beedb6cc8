"""The note in a copy that says whose it is, until the home has been switched to it."""

from __future__ import annotations

import msgspec

from batch.database_address import without_password


class MoveMark(msgspec.Struct, frozen=True):
    """Of one copy."""

    tables: dict[str, str] = {}
    """What each table came to, as its digest says."""
    address: str = ""
    """The database that was left, without a password; empty where it was the home's file."""
    schema: str = ""
    """Under which the tables that were left are put aside."""

    @classmethod
    def read(cls, text: str) -> MoveMark | None:
        """The note that a text holds; None where there is none."""
        return msgspec.json.decode(text.encode(), type=cls) if text else None

    def with_tables(self, tables: dict[str, str]) -> MoveMark:
        """The note of what was copied."""
        return MoveMark(tables, without_password(self.address).replace(":***@", "@"), self.schema)

    def write(self) -> str:
        """As text."""
        return msgspec.json.encode(self).decode()
