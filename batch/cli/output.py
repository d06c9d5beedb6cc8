"""What commands print: text that steers no terminal, tables, JSON, times; and streams that end without a traceback.

File names, captions, transcripts and errors may hold anything, so all of it goes through here.
"""

from __future__ import annotations

import json
import os
import re
import select
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

PIPED_COLUMNS = 100_000
"""Width of a table that no terminal shows: nothing is cut."""
_STEERING = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
"""Control characters (C1 too), marks that turn text around or hide it, and bytes of names that are no UTF-8."""


def safe_line(text: str) -> str:
    """Text for one line: control characters, C1 included, and marks that turn text around are escaped."""
    return _STEERING.sub(_escape_steering, text)


def safe_text(text: str) -> str:
    """As `safe_line`, for text that may have lines and tabs of its own."""
    return "\n".join("\t".join(safe_line(cell) for cell in line.split("\t")) for line in text.split("\n"))


def _escape_steering(match: re.Match[str]) -> str:
    char = match[0]
    if "\udc80" <= char <= "\udcff":  # a byte of a file name that is no UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape", "surrogatepass").decode()


def print_line(text: str = "", *, file: TextIO | None = None, flush: bool = False) -> None:
    """Print one line that steers no terminal."""
    print(safe_line(text), file=file, flush=flush)


def print_text(text: str) -> None:
    """Print text with its own lines, that steers no terminal."""
    print(safe_text(text))


def print_error(sentence: str) -> None:
    """One sentence on standard error, behind the command's name."""
    print_line(f"batch: {sentence}", file=sys.stderr)


def print_json(value: object) -> None:
    """Indented JSON for programs, as readable for people as a terminal may safely show."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    print("\n".join(_STEERING.sub(lambda match: json.dumps(match[0])[1:-1], line) for line in text.split("\n")))


def terminal(*, stderr: bool = False, markup: bool = False) -> Console:
    """A rich console for tables and colours: as wide as the terminal, or so wide that nothing is cut where there is none."""
    from rich.console import Console

    class PlainConsole(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    stream = sys.stderr if stderr else sys.stdout
    return PlainConsole(
        stderr=stderr,
        highlight=False,
        markup=markup,
        emoji=False,
        soft_wrap=True,
        width=None if stream.isatty() or "COLUMNS" in os.environ else PIPED_COLUMNS,
    )


_WHOLE_COLUMNS = 32
"""A first cell of at most so many columns is never cut: ids have up to 30 characters."""


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table whose last columns are cut where the terminal ends, and none when it is piped; an id stays whole."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    lines = [[safe_line(cell) for cell in row] for row in rows]
    for index, heading in enumerate(headings):
        # The first column is what a person copies into the next command.
        longest = max((len(line[0]) for line in lines), default=0) if index == 0 else 0
        table.add_column(heading, overflow="ellipsis", no_wrap=True, min_width=min(longest, _WHOLE_COLUMNS) or None)
    for line in lines:
        table.add_row(*map(Text, line))
    terminal().print(table, soft_wrap=False)


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.4 s, 4 s, 3 min, 2 h 5 min, 3 d 4 h."""
    if seconds < 10:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if minutes < 60:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if hours < 24 else f"{days} d {hours % 24} h"


def moment(when: float | None) -> str:
    """Unix seconds as local date and time; "-" for None."""
    return "-" if when is None else datetime.fromtimestamp(when).strftime("%Y-%m-%d %H:%M:%S")


def short_moment(when: float) -> str:
    """The time of day for today, the date for older times."""
    then = datetime.fromtimestamp(when)
    return then.strftime("%H:%M:%S" if then.date() == datetime.now().date() else "%Y-%m-%d")


def prepare_streams() -> None:
    """Have what an output's encoding does not know escaped: it must not end a command."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def is_output_read() -> bool:
    """Whether somebody still reads standard output: False when it is a pipe whose other end is closed."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):
        return True


def finish_output() -> OSError | None:
    """Write out what is buffered; returns what kept it from being written, a full disk, say."""
    try:
        sys.stdout.flush()
    except OSError as error:
        discard_output()
        return error
    except ValueError:  # it is closed
        pass
    return None


def discard_output() -> None:
    """Let what was not written go nowhere: the interpreter tries again at its end, and would complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr) if _is_broken(sys.stderr) else (sys.stdout,):
        try:
            os.dup2(nowhere, stream.fileno())
        except (OSError, ValueError):
            continue
    os.close(nowhere)


def _is_broken(stream: TextIO) -> bool:
    try:
        stream.flush()
    except (OSError, ValueError):
        return True
    return False
