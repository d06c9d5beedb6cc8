"""How `batch search` shows what it found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch.cli.output import print_line, safe_line, terminal

if TYPE_CHECKING:
    from rich.text import Text

    from batch.search.result import SearchHit, SearchResult

_INDENT = "    "


def print_hits(result: SearchResult) -> None:
    """A hit a paragraph: its file and moment, then its words, those that were looked for in bold."""
    if not result.data:
        print_line("Nothing was found.")
        return
    console = terminal()
    for hit in result.data:
        console.print(_title(hit), soft_wrap=True)
        console.print(_words(hit), soft_wrap=True)
        for moment in hit.moments:
            when = "" if moment.start is None else f"{clock(moment.start)}  "
            console.print(f"{_INDENT}{when}{_line(moment.text)}", soft_wrap=True, style="dim")
        if hit.also:
            console.print(f"{_INDENT}also: {', '.join(map(safe_line, hit.also))}", soft_wrap=True, style="dim")
    if result.has_more:
        print_line(f"There is more: --limit shows more than {len(result.data)}.")


def clock(seconds: float) -> str:
    """Seconds of a recording as players show them: 1:02, 1:00:05."""
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def _title(hit: SearchHit) -> str:
    when = "" if hit.start is None or hit.end is None else f"  {clock(hit.start)} to {clock(hit.end)}"
    return safe_line(f"{hit.source}{when}  ({hit.kind}{f', {hit.language}' if hit.language else ''})")


def _words(hit: SearchHit) -> Text:
    from rich.text import Text

    highlighted, place = Text(_INDENT), 0
    for start, end in hit.highlights:
        highlighted.append(_line(hit.text[place:start]))
        highlighted.append(_line(hit.text[start:end]), style="bold")
        place = end
    highlighted.append(_line(hit.text[place:].rstrip()))
    return highlighted


def _line(text: str) -> str:
    """Text with its line breaks as spaces."""
    return safe_line(text.replace("\r\n", " ").replace("\n", " ").replace("\t", " "))
