"""The visible text of an HTML page, in one pass over it however it is broken."""

from __future__ import annotations

import html
import re

_TAG_NAME = re.compile(r"/?([A-Za-z][A-Za-z0-9-]*)")
_HIDDEN = {name: re.compile(f"</{name}", re.IGNORECASE) for name in ("script", "style", "noscript", "template", "svg", "title")}
"""Elements that are passed over; the title has been taken already."""
_BLOCK = re.compile(
    "address|article|aside|blockquote|body|br|caption|dd|details|div|dl|dt|fieldset|figcaption|figure|footer|form|h[1-6]|head|"
    "header|hr|html|li|main|nav|ol|option|p|pre|section|summary|table|tbody|td|tfoot|th|thead|tr|ul"
)
"""Elements that begin a line of their own."""
_SPACES = re.compile(r"[^\S\n]+")
_LINES = re.compile(r"\s*\n\s*")


def visible_text(page: str) -> str:
    """What a reader sees, a block a line; the title comes first."""
    parts: list[str] = []
    title = re.search(r"<title[^>]{0,200}>([^<]{0,2000})", page, re.IGNORECASE)
    if title is not None:
        parts += [title[1], "\n"]
    at = 0
    while True:
        start = page.find("<", at)
        if start < 0:
            parts.append(page[at:])
            break
        parts.append(page[at:start])
        end, is_block = _after_markup(page, start)
        if end < 0:  # it is never closed
            break
        if end == start:  # a mere "less than"
            parts.append("<")
            end = start + 1
        elif is_block:
            parts.append("\n")
        at = end
    text = html.unescape("".join(parts))
    return _LINES.sub("\n", _SPACES.sub(" ", text)).strip()


def _after_markup(page: str, start: int) -> tuple[int, bool]:
    """(where what begins at "<" ends, whether it breaks the line); `start` itself for no markup, -1 for an endless one."""
    if page.startswith("<!--", start):
        end = page.find("-->", start + 4)
        return (end + 3 if end >= 0 else -1), False
    name = _TAG_NAME.match(page, start + 1)
    if name is None:
        if not page.startswith(("<!", "<?"), start):
            return start, False
        end = page.find(">", start)
        return (end + 1 if end >= 0 else -1), False
    end = page.find(">", name.end())
    if end < 0:
        return -1, False
    tag = name[1].lower()
    if tag in _HIDDEN and page[start + 1] != "/":
        close = _HIDDEN[tag].search(page, end + 1)
        if close is None:
            return -1, False
        end = page.find(">", close.end())
        return (end + 1 if end >= 0 else -1), True
    return end + 1, _BLOCK.fullmatch(tag) is not None
