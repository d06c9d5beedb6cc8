"""A text as the lines of subtitles: where it may be broken, and where that reads best."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from batch.media.scripts import is_unspaced

MAX_COLUMNS = 42
"""Widest line; a Chinese, Japanese or Korean character takes two columns."""

_SENTENCE_ENDS = ".!?…。！？"
_CLAUSE_ENDS = ",;:，、；：—–"
_CLOSING = "\"')]}”’»」』）】》〉"
# A line ends badly behind these, and well before the others.
_LEADING = "a an the my your his her its our their this that of to in on at for with by from and or but"
_JOINING = "and but or so because that which who when while where if though although than as"
_LEADING_WORDS, _JOINING_WORDS = frozenset(_LEADING.split()), frozenset(_JOINING.split())


def columns(text: str) -> int:
    """Width on screen: two for wide characters, none for combining ones."""
    return sum(_width(character) for character in text)


def break_lines(text: str) -> list[list[str]]:
    """One line of text as cues of one or two lines, each at most MAX_COLUMNS wide."""
    pieces = _pieces(text)
    if columns(text) <= MAX_COLUMNS:
        return [[text]]
    count = len(pieces)
    full = [columns(piece) for piece in pieces]
    bare = [columns(piece.rstrip()) for piece in pieces]
    ugliness = [0.0, *(_ugliness(pieces, at) for at in range(1, count)), 0.0]
    # cost[i][parity]: least cost of setting pieces[:i], the next line being the cue's first or second
    cost = [[float("inf")] * 2 for _ in range(count + 1)]
    origin: list[list[tuple[int, int]]] = [[(0, 0)] * 2 for _ in range(count + 1)]
    cost[0][0] = 0.0
    for i in range(count):
        for parity in (0, 1):
            if cost[i][parity] == float("inf"):
                continue
            width = 0
            for j in range(i + 1, count + 1):
                tight = width + bare[j - 1]
                if tight > MAX_COLUMNS and j > i + 1:
                    break
                width += full[j - 1]
                stay = cost[i][parity] + ((MAX_COLUMNS - tight) / MAX_COLUMNS) ** 2 * 3 + ugliness[j] + 1
                if parity == 0 and j < count and stay < cost[j][1]:
                    cost[j][1], origin[j][1] = stay, (i, 0)
                close = stay + ugliness[j] + 3  # a cue's end weighs more than a line's
                if close < cost[j][0]:
                    cost[j][0], origin[j][0] = close, (i, parity)
    lines: list[tuple[str, int]] = []
    at, parity = count, 0
    while at:
        start, line_parity = origin[at][parity]
        lines.append(("".join(pieces[start:at]).strip(), line_parity))
        at, parity = start, line_parity
    cues: list[list[str]] = []
    for line, line_parity in reversed(lines):
        if line_parity == 0:
            cues.append([line])
        else:
            cues[-1].append(line)
    return cues


@lru_cache(4096)
def _width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _ugliness(pieces: Sequence[str], at: int) -> float:
    """Cost of a break before pieces[at]."""
    last, following = pieces[at - 1].rstrip().rstrip(_CLOSING), pieces[at].strip().lower()
    if last.endswith(tuple(_SENTENCE_ENDS)):
        return 0.0
    if last.endswith(tuple(_CLAUSE_ENDS)):
        return 0.6
    if last.strip().lower() in _LEADING_WORDS:
        return 4.0
    return 1.5 if following in _JOINING_WORDS else 2.5


def _pieces(text: str) -> list[str]:
    """What may not be torn: words with the space behind them; in a script without spaces single characters with their
    marks and punctuation."""
    pieces: list[str] = []
    for word in re.findall(r"\S+\s*", text):
        piece = ""
        for character in word:
            parts = _stands_alone(character) or (bool(piece) and _stands_alone(piece[0]) and _is_narrow_letter(character))
            if piece and parts and not _opens(piece):
                pieces.append(piece)
                piece = ""
            piece += character
            if columns(piece) >= MAX_COLUMNS:
                pieces.append(piece)
                piece = ""
        if piece:
            pieces.append(piece)
    return pieces


def _stands_alone(character: str) -> bool:
    """Whether a line may be broken before this letter: it is Korean, or of a script without spaces."""
    category = unicodedata.category(character)[0]
    return category == "L" and (is_unspaced(character) or _width(character) == 2)


def _is_narrow_letter(character: str) -> bool:
    return _width(character) == 1 and character.isalnum() and not is_unspaced(character)


def _opens(piece: str) -> bool:
    return all(unicodedata.category(character) in ("Ps", "Pi") for character in piece)
