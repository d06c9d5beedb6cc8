"""Whose rows of the folder's tables a statement means: in a database that fronts share, every inbox has rows of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ID = re.compile(r"[A-Za-z0-9_-]{0,64}")


@dataclass(frozen=True, slots=True)
class InboxScope:
    """Pieces of statements on tables with a column `front`; all of them empty where there is no such column, as a home has
    its database to itself."""

    inbox: str | None = None
    """The id of the inbox: that of the front which watched it first."""

    def __post_init__(self) -> None:
        if self.inbox is not None and not _ID.fullmatch(self.inbox):
            raise ValueError(f"not an inbox's id: {self.inbox[:80]!r}")

    def own(self, alias: str = "") -> str:
        """A condition before others: only the rows of this inbox."""
        return "" if self.inbox is None else f"{alias and alias + '.'}front='{self.inbox}' and "

    def same(self, alias: str, other: str) -> str:
        """A condition before others: two rows of one inbox."""
        return "" if self.inbox is None else f"{alias}.front={other}.front and "

    @property
    def columns(self) -> str:
        """What an insert names before its other columns, and what makes a key of an inbox unique."""
        return "" if self.inbox is None else "front, "

    @property
    def values(self) -> str:
        """What stands for `columns` before an insert's other values."""
        return "" if self.inbox is None else f"'{self.inbox}', "


WHOLE_DATABASE = InboxScope()
