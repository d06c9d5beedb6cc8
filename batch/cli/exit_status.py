"""The exit statuses of `batch`, in one table."""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """What a command ends with; each member's comment is what `batch --help` says of it."""

    DONE = 0
    """It did what it was asked to; also when the reader of its output had seen enough."""
    FAILED = 1
    """It could not, or a job that it waited for failed: one sentence on standard error says why. Or a search found nothing."""
    USAGE = 2
    """The command line is wrong."""
    SERVICE_DOWN = 3
    """The service is not running, and is needed or was asked about."""
    BREAKDOWN = 70
    """A fault of batch's own; the log has the details."""
    INTERRUPTED = 130
    """Ctrl-C."""


HELP = """\
Exit status: 0 done; 1 failed, with one sentence on standard error, or nothing was found; 2 a wrong command \
line; 3 the service is not running, and is needed or was asked about; 70 a fault of batch's own; 130 Ctrl-C."""
