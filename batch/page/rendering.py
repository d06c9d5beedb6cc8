"""HTML of Jinja templates, every value escaped, and the page's own scripts and styles under names that hold their hash."""

from __future__ import annotations

import hashlib
import math
import time
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

import jinja2
from starlette.responses import HTMLResponse

from batch.folder.file_names import one_line

HERE = Path(__file__).parent
_ASSET_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_HASH_DIGITS = 12

NOTICES = {
    "retried": "Jobs queued again: {n}.",
    "cancelled": "Jobs cancelled, or stopping at their next step: {n}.",
    "background": "This goes on in the background for {n} jobs; the list shows how far it is.",
    "redo": "Files that will be done again at the service's next look at the inbox: {n}.",
    "paused": "Paused: nothing of it is begun until it is resumed.",
    "resumed": "It goes on.",
    "uploaded": "Files put into the inbox: {n}.",
}
"""What a page says about what was just done; the address carries the name and a number, never a text."""


class Asset(NamedTuple):
    """A file of the page's own."""

    data: bytes
    media_type: str


@cache
def assets() -> dict[str, Asset]:
    """The page's files by the names under which they are served."""
    served = {}
    for file in sorted((HERE / "assets").iterdir()):
        if file.suffix in _ASSET_TYPES:
            data = file.read_bytes()
            digest = hashlib.sha256(data).hexdigest()[:_HASH_DIGITS]
            served[f"{file.stem}.{digest}{file.suffix}"] = Asset(data, _ASSET_TYPES[file.suffix])
    return served


def asset_address(name: str) -> str:
    """Where an asset is served, as "page.css"."""
    stem, _, ending = name.rpartition(".")
    return next(f"/page/assets/{served}" for served in assets() if served.startswith(f"{stem}.") and served.endswith(ending))


def render(template: str, code: int = 200, **values: object) -> HTMLResponse:
    """An answer of a template in html/."""
    return HTMLResponse(_environment().get_template(template).render(values), code)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "html"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.globals.update(asset=asset_address, address=address)
    environment.filters.update(
        name=one_line, when=when, iso=iso, clock=clock, duration=duration, size=size, shortened=shortened, parts=parts
    )
    return environment


def address(path: str, **parameters: object) -> str:
    """A path with those parameters that are not None or empty."""
    query = urlencode({name: value for name, value in parameters.items() if value not in (None, "")}, errors="surrogateescape")
    return f"{path}?{query}" if query else path


def when(moment: float | None) -> str:
    """A time of this machine for people; a dash for none."""
    return "–" if moment is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def iso(moment: float | None) -> str:
    """A time for programs, in UTC."""
    return "" if moment is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def clock(seconds: float) -> str:
    """A place in a recording: 1:02:03 or 2:03."""
    whole = int(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def duration(seconds: float | None) -> str:
    """A length of time in two units at most; a dash for none."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 0.95:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, small, name, small_name in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if whole >= unit:
            rest = whole % unit // small
            return f"{whole // unit} {name} {rest} {small_name}" if rest else f"{whole // unit} {name}"
    return f"{whole} s"


def size(count: int) -> str:
    """Bytes for people."""
    number = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def shortened(text: str, chars: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= chars else text[: chars - 1].rstrip() + "…"


def parts(text: str, highlights: list[tuple[int, int]]) -> list[tuple[str, bool]]:
    """A text in pieces, each with whether it is highlighted."""
    pieces, place = [], 0
    for start, end in highlights:
        pieces += [(text[place:start], False), (text[start:end], True)]
        place = end
    return [piece for piece in [*pieces, (text[place:], False)] if piece[0]]
