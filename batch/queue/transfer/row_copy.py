"""Rows of all tables on their way from one database into the other, and whether they arrived."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from batch.queue.transfer.row_digest import RowDigest
from batch.queue.transfer.sides import CopyDiffers, Row, RowReader, RowSource, RowTarget
from batch.queue.transfer.tables import ID_COLUMNS, MOVED_TABLES, NOT_COMPARED

Report = Callable[[str, int], None]
"""Gets what is copied and how many of it so far."""
_REPORT_EVERY_ROWS = 2000


def copy_rows(source: RowSource, target: RowTarget, report: Report) -> dict[str, RowDigest]:
    """Copy every table; by table, what was sent, as the target should give it back."""
    sent: dict[str, RowDigest] = {}
    for table in MOVED_TABLES:
        columns = shared_columns(source, target, table)
        sent[table] = RowDigest()
        rows = map(target.as_stored(table, columns), source.rows(table, columns))
        counted = _counted(sent[table].over(rows, _compared(table, columns)), table, report)
        target.write(table, columns, counted)
        report(table, sent[table].count)
        if table in ID_COLUMNS:
            target.set_highest_id(table, source.highest_id(table))
    target.finish()
    return sent


def verify_rows(source: RowSource, target: RowTarget, sent: dict[str, RowDigest], report: Report) -> None:
    """Read every table back. Raises CopyDiffers."""
    for table, digest in sent.items():
        arrived = _digest_of(source, target, table, report)
        report(f"{table}, read back", arrived.count)
        if str(arrived) != str(digest):
            raise CopyDiffers(
                f"The table {table} did not arrive as it was ({arrived.count} rows of {digest.count}, or other values)."
            )


def digest_source(source: RowReader, target: RowReader, report: Report) -> dict[str, str]:
    """What each table of the source would come to in the target."""
    digests: dict[str, str] = {}
    for table in MOVED_TABLES:
        columns, digest = shared_columns(source, target, table), RowDigest()
        rows = map(target.as_stored(table, columns), source.rows(table, columns))
        for _ in _counted(digest.over(rows, _compared(table, columns)), f"{table}, looked at", report):
            pass
        digests[table] = str(digest)
    return digests


def digest_target(source: RowReader, target: RowReader, report: Report) -> dict[str, str]:
    """What each table of the target comes to."""
    return {table: str(_digest_of(source, target, table, report)) for table in MOVED_TABLES}


def shared_columns(source: RowReader, target: RowReader, table: str) -> list[str]:
    """The columns of a table that both databases have."""
    known = set(target.columns(table))
    return [column for column in source.columns(table) if column in known]


def _digest_of(source: RowReader, target: RowReader, table: str, report: Report) -> RowDigest:
    columns = shared_columns(source, target, table)
    arrived = RowDigest()
    for _ in _counted(arrived.over(target.rows(table, columns), _compared(table, columns)), f"{table}, read back", report):
        pass
    return arrived


def _compared(table: str, columns: Sequence[str]) -> list[int]:
    return [place for place, column in enumerate(columns) if (table, column) not in NOT_COMPARED]


def _counted(rows: Iterable[Row], label: str, report: Report) -> Iterator[Row]:
    for count, row in enumerate(rows, 1):
        if count % _REPORT_EVERY_ROWS == 0:
            report(label, count)
        yield row
